"""Images as they come in real folders."""

import io
import os

import numpy as np
import pytest
from PIL import Image, features

from flax_augtl.data.errors import UnreadableImage
from flax_augtl.data.images.decode import read_image

RED = np.tile(np.array([200, 30, 60], np.uint8), (20, 30, 1))


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pixels(content, **options):
    image = read_image(content, **options)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.fixture
def red():
    return Image.fromarray(RED)


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP", "TIFF", "PPM", "JPEG", "GIF"])
def test_every_format_is_the_same_image(red, form):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(form, {})
    np.testing.assert_allclose(pixels(encoded(red, form, **options)), RED, atol=2)


def test_grey_and_one_bit():
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    for channel in range(3):
        np.testing.assert_array_equal(pixels(encoded(grey, "PNG"))[..., channel], np.asarray(grey))
    bits = Image.fromarray(np.eye(8, dtype=bool))
    np.testing.assert_array_equal(pixels(encoded(bits, "PNG"))[..., 0], 255 * np.eye(8))


def test_palette_and_its_transparency(red):
    palette = red.quantize(4)
    np.testing.assert_allclose(pixels(encoded(palette, "PNG")), RED, atol=4)
    clear = Image.new("P", (4, 4), 0)
    clear.putpalette([10, 20, 30, 40, 50, 60])
    assert (pixels(encoded(clear, "PNG", transparency=0)) == 255).all()


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_what_is_transparent_is_white_and_not_what_lies_hidden_under_it(form):
    layer = np.zeros((8, 8, 4), np.uint8)
    layer[:4] = [250, 0, 0, 255]
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    found = pixels(encoded(Image.fromarray(layer), form, **options))
    assert (found[:4] == [250, 0, 0]).all() and (found[4:] == 255).all()


def test_grey_with_transparency():
    layer = Image.merge("LA", [Image.new("L", (4, 4), 100), Image.new("L", (4, 4), 255)])
    assert (pixels(encoded(layer, "PNG")) == 100).all()


def test_cmyk(red):
    np.testing.assert_allclose(pixels(encoded(red.convert("CMYK"), "JPEG", quality=100, subsampling=0)), RED, atol=4)


def test_sixteen_bits_keep_their_brightness():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for form in ("PNG", "TIFF"):
        found = pixels(encoded(Image.fromarray(ramp), form))
        np.testing.assert_allclose(found[..., 0], ramp / 257, atol=1)
        assert len(np.unique(found)) == 256


def test_floats():
    found = pixels(encoded(Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), "TIFF"))
    assert found.min() == 0 and found.max() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright(orientation):
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :24] = 255  # A white corner, top left as it is stored.
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(encoded(Image.fromarray(stored), "JPEG", exif=exif.tobytes(), quality=95))
    assert found.shape[:2] == ((48, 32) if orientation >= 5 else (32, 48))
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    bright = {(r, c) for r in (0, -1) for c in (0, -1) if found[r, c].mean() > 128}
    assert bright == {corner[orientation]}


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for form in ("GIF", "WEBP", "PNG"):
        found = pixels(encoded(frames[0], form, save_all=True, append_images=frames[1:]))
        np.testing.assert_allclose(found, np.tile([255, 0, 0], (8, 8, 1)), atol=6)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3)])
def test_odd_sizes(size):
    assert pixels(encoded(Image.new("RGB", size, "red"), "PNG")).shape == (size[1], size[0], 3)


def test_an_ending_may_lie(tmp_path, red):
    (tmp_path / "really-png.jpg").write_bytes(encoded(red, "PNG"))
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "really-png.jpg")), RED)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif(red):
    np.testing.assert_allclose(pixels(encoded(red, "AVIF", quality=100)), RED, atol=6)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty \\(zero bytes\\)"),
        (b"I am a text.\n" * 40, "not an image in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image in a known format"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, content, reason):
    (tmp_path / "cat.jpg").write_bytes(content)
    with pytest.raises(UnreadableImage, match=f"cat.jpg cannot be read: .*{reason}") as error:
        read_image(tmp_path / "cat.jpg")
    assert error.value.path == str(tmp_path / "cat.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_half_an_image_is_damaged(form):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    content = encoded(noise, form)
    with pytest.raises(UnreadableImage):
        read_image(content[: len(content) // 2])


def test_what_the_file_system_has_in_store(tmp_path):
    os.symlink(tmp_path / "gone.jpg", tmp_path / "link.jpg")
    with pytest.raises(UnreadableImage, match="a link to a file that does not exist"):
        read_image(tmp_path / "link.jpg")
    with pytest.raises(UnreadableImage, match="no such file"):
        read_image(tmp_path / "never.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(UnreadableImage, match="it is a folder"):
        read_image(tmp_path / "folder.jpg")


@pytest.mark.slow
def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    bomb = encoded(Image.new("1", (30_000, 30_000)), "PNG")
    assert len(bomb) < 1_000_000
    with pytest.raises(UnreadableImage, match="pixels"):
        read_image(bomb)
    small = encoded(Image.new("RGB", (100, 100)), "PNG")
    with pytest.raises(UnreadableImage, match="100 × 100 pixels, more than the limit of 9,999"):
        read_image(small, max_pixels=9_999)
    assert read_image(small, max_pixels=10_000).size == (100, 100)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_reduced_jpeg_is_as_large_as_asked_for(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).resize((1600, 800), Image.Resampling.BICUBIC)
    content = encoded(photograph, "JPEG", exif=exif.tobytes(), quality=95)
    whole = read_image(content)
    for side, factor in ((801, 1), (400, 2), (150, 4), (100, 8), (1, 8)):
        reduced = read_image(content, at_least=(side, side))
        assert reduced.size == tuple(extent // factor for extent in whole.size)
        difference = np.asarray(reduced, int) - np.asarray(whole.resize(reduced.size, Image.Resampling.BOX), int)
        assert np.abs(difference).mean() < 2
    png = encoded(photograph, "PNG")
    assert read_image(png, at_least=(1, 1)).size == photograph.size
