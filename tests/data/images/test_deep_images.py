"""TIFFs, and 16-bit PNGs, whose numbers are not 8 bits: black is black and white is white, or the file is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import DataError, UnreadableImage, load_dataset
from flax_augtl.data.images.decode import read_image
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.predict import file_stream

GREY = np.add.outer(3 * np.arange(37), 4 * np.arange(53)) % 256
GREY[0, :2] = 0, 255
SHARE = GREY / 255  # Of the way from black to white.


def tiff(rows, width, bits, *, order="<", kind=1, white_is_zero=False, zipped=False, channels=1, **tags):
    """A TIFF file: `rows` are the bytes of the image, `tags` further {"t274": value}."""
    rows = zlib.compress(rows) if zipped else rows
    # Width, height, bits, compression, photometric, strip, channels, rows a strip, bytes of the strip, format.
    fields = {
        256: width,
        257: 37,
        258: bits,
        259: 8 if zipped else 1,
        262: 0 if white_is_zero else 1,
        273: None,
        277: channels,
        278: 37,
        279: len(rows),
        339: kind,
        **{int(name[1:]): tags[name] for name in tags},
    }
    start = 10 + 12 * len(fields) + 4
    entries = [
        struct.pack(order + "HHI", tag, 4 if tag in (256, 257, 273, 278, 279) else 3, 1)
        + (
            struct.pack(order + "I", start if value is None else value)
            if tag in (256, 257, 273, 278, 279)
            else struct.pack(order + "HH", value, 0)
        )
        for tag, value in sorted(fields.items())
    ]
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(fields))
    return head + b"".join(entries) + struct.pack(order + "I", 0) + rows


def pixels(content):
    found = np.asarray(read_image(content)).astype(int)
    assert (found == found[..., :1]).all()
    return found[..., 0]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("dtype, black, white", [
    ("u2", 0, 65535), ("u4", 0, 2**32 - 1), ("u4", 0, 65535), ("u4", 0, 255), ("u8", 0, 2**64 - 2**11),
    ("i1", -128, 127), ("i1", 0, 127), ("i2", -32768, 32767), ("i2", 0, 32767), ("i4", -(2**31), 2**31 - 1),
    ("i4", 0, 65535), ("f2", 0, 1), ("f4", 0, 1), ("f4", 0, 255), ("f8", 0, 65535),
])  # fmt: skip
def test_numbers_of_every_kind(dtype, black, white, white_is_zero, order, zipped):
    share = 1 - SHARE if white_is_zero else SHARE
    values = share * (white - black) + black
    rows = (values if dtype[0] == "f" else np.rint(values)).astype(order + dtype)
    content = tiff(rows.tobytes(), 53, 8 * rows.itemsize, order=order, kind=" uif".index(dtype[0]),
                   white_is_zero=white_is_zero, zipped=zipped)  # fmt: skip
    np.testing.assert_allclose(pixels(content), GREY, atol=1)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
def test_packed_bits(bits, white_is_zero, order):
    values = np.rint((1 - SHARE if white_is_zero else SHARE) * (2**bits - 1)).astype(int)
    each = values[..., None] >> np.arange(bits)[::-1] & 1
    rows = np.packbits(each.reshape(37, -1).astype(np.uint8), axis=1)
    for zipped in (False, True):
        content = tiff(rows.tobytes(), 53, bits, order=order, white_is_zero=white_is_zero, zipped=zipped)
        np.testing.assert_allclose(pixels(content), GREY, atol=1)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u2", "u4", "i2", "f4", "f2"])
def test_predictors(dtype, order):
    white = 1 if dtype[0] == "f" else 2 ** (8 * int(dtype[1]) - (dtype[0] == "i")) - 1
    values = (SHARE * white if dtype[0] == "f" else np.rint(SHARE * white)).astype(order + dtype)
    if dtype[0] == "f":
        planes = values.astype(f">{dtype}").view(np.uint8).reshape(37, 53, -1).swapaxes(1, 2).reshape(37, -1)
        rows = np.diff(planes, axis=1, prepend=np.uint8(0))
    else:
        numbers = values.astype(f"u{dtype[1]}")
        rows = np.diff(numbers, axis=1, prepend=numbers.dtype.type(0)).astype(f"{order}u{dtype[1]}")
    content = tiff(rows.tobytes(), 53, 8 * values.itemsize, order=order, kind=" uif".index(dtype[0]), zipped=True,
                   t317=3 if dtype[0] == "f" else 2)  # fmt: skip
    np.testing.assert_allclose(pixels(content), GREY, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_deep_tiff_is_upright(orientation):
    rows = np.rint(SHARE * 65535).astype("<u2")
    upright = {1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T, 6: GREY[::-1].T,
               7: GREY[::-1, ::-1].T, 8: GREY.T[::-1]}[orientation]  # fmt: skip
    np.testing.assert_array_equal(pixels(tiff(rows.tobytes(), 53, 16, t274=orientation)), upright)


@pytest.mark.parametrize("values, reach", [(SHARE - 0.5, "from -0.5 to 0.5"), (SHARE * 1e6, "from 0 to 1e\\+06")])
def test_floats_without_a_known_black_or_white_are_refused(values, reach):
    with pytest.raises(UnreadableImage, match=f"its float values reach {reach}, .* save it with values from 0 to 1"):
        read_image(tiff(values.astype("<f4").tobytes(), 53, 32, kind=3))


def test_a_value_that_is_no_number_is_black_and_an_infinite_one_white():
    values = SHARE.astype("<f4")
    values[5, 5], values[5, 6], values[5, 7] = np.nan, np.inf, -0.001
    np.testing.assert_array_equal(pixels(tiff(values.tobytes(), 53, 32, kind=3))[5, 5:8], [0, 255, 0])


@pytest.mark.parametrize(
    "bits, more, said",
    [
        (24, {}, "a TIFF with 1 channel of 24 bits, compression 1,"),
        (16, {"channels": 2}, "a TIFF with 2 channels, compression 1,"),
        (16, {"kind": 2, "t317": 9}, "a TIFF with 1 signed channel of 16 bits, compression 1,"),
    ],
)
def test_other_layouts_are_described(bits, more, said):
    with pytest.raises(
        UnreadableImage, match=f"it is {said} in a layout that is not supported; save it as 8 or 16 bit"
    ):
        read_image(tiff(bytes(37 * 53 * 8), 53, bits, **more))


def test_a_transparent_value_of_a_16_bit_png_is_white():
    values = np.rint(SHARE * 65535).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", transparency=0)
    assert (pixels(file.getvalue()) == np.where(GREY == 0, 255, GREY)).all()


def stack(*frames):
    """A TIFF of several pages, given as (mode L image, NewSubfileType)."""
    file = io.BytesIO()
    images = [image for image, _ in frames]
    for image, kind in frames:
        image.encoderinfo = {"tiffinfo": {254: kind}}
    images[0].save(file, "TIFF", save_all=True, append_images=images[1:], tiffinfo={254: frames[0][1]})
    return file.getvalue()


def test_the_first_page_that_is_no_smaller_copy_is_the_image():
    small, full = Image.new("L", (5, 4), 7), Image.fromarray(GREY.astype(np.uint8))
    np.testing.assert_array_equal(pixels(stack((small, 1), (full, 0))), GREY)
    assert pixels(stack((small, 0), (full, 0))).shape == (4, 5)
    assert pixels(stack((small, 1), (small, 4))).shape == (4, 5)


def test_what_looks_black_and_what_is_a_stack_is_said(make_folder):
    root = make_folder({"a": 6, "b": 6}, suffix=".png")
    dim = np.rint(SHARE * 4095).astype(np.uint16)
    Image.fromarray(dim).save(root / "a" / "000.png")
    Image.fromarray(dim).save(root / "b" / "dim.tif")
    page = Image.fromarray(GREY.astype(np.uint8))
    page.save(root / "b" / "stack.tif", save_all=True, append_images=[page])
    notes = load_dataset({"root": root}, seed=0).notes
    assert (
        "2 of 14 images use less than a tenth of the range from black to white, such as 12-bit values in a 16-bit "
        "file, which look black; scale their values if that is not intended: a/000.png, b/dim.tif."
    ) in notes
    assert "1 of 14 images are TIFFs of several pages, of which the first is used: b/stack.tif." in notes
    assert load_dataset({"root": root}, seed=0).notes == notes  # From what is remembered.


def chunk(name, content, sound=True):
    return (
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content) ^ (not sound))
    )


def png(*chunks, behind=()):
    """The image as a PNG with further chunks before or behind the image data."""
    file = io.BytesIO()
    Image.fromarray(GREY.astype(np.uint8)).save(file, "PNG")
    content = file.getvalue()
    return content[:33] + b"".join(chunks) + content[33:-12] + b"".join(behind) + content[-12:]


LARGE = b"x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1)


@pytest.mark.parametrize("content", [
    png(chunk(b"zTXt", b"note\0\0" + zlib.compress(LARGE))),
    png(behind=[chunk(b"zTXt", b"note\0\0" + zlib.compress(LARGE))]),
    png(chunk(b"iTXt", b"note\0\1\0\0\0" + zlib.compress(LARGE))), png(chunk(b"tEXt", b"note\0" + LARGE)),
    png(chunk(b"iCCP", b"icc\0\0" + zlib.compress(LARGE))), png(*[chunk(b"tEXt", b"note\0" + LARGE[:-9])] * 70),
    png(chunk(b"tEXt", b"note\0text", False)), png(behind=[chunk(b"tIME", bytes(7), False)]),
    png(chunk(b"iCCP", b"icc\0\0junk", False)), png(chunk(b"pHYs", b"12")), png(chunk(b"tRNS", b"\0\0", False)),
])  # fmt: skip
def test_what_lies_beside_the_image_of_a_png_is_passed_over(content):
    np.testing.assert_array_equal(pixels(content), GREY)


def test_transparency_and_orientation_outlast_a_large_text():
    exif = Image.Exif()
    exif[274] = 3
    large = chunk(b"tEXt", b"note\0text", False)
    found = pixels(png(large, chunk(b"tRNS", b"\0\0"), chunk(b"eXIf", exif.tobytes()[6:])))
    np.testing.assert_array_equal(found, np.where(GREY == 0, 255, GREY)[::-1, ::-1])


def test_a_wrong_checksum_of_the_image_itself_is_damage():
    content = bytearray(png())
    content[content.index(b"IDAT") + 8] ^= 1
    with pytest.raises(UnreadableImage, match="it is damaged"):
        read_image(bytes(content))


def test_the_field_that_raises_the_limit_is_named_and_raises_it(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # For the whole process: put back behind.
    # A PNG of 200 megapixels that ends before its pixels, which the size is checked before.
    large = png()[:16] + struct.pack(">II", 20_000, 10_000) + png()[24:]
    large = large[:29] + struct.pack(">I", zlib.crc32(large[12:29])) + large[33:]
    with pytest.raises(
        UnreadableImage,
        match="it has 200,000,000 pixels, more than the limit of 178,956,970; raise it "
        "with --config.data.max_pixels=200000000, or, to predict, with --max_pixels=200000000",
    ):
        read_image(large)
    with pytest.raises(UnreadableImage, match="damaged"):  # The size is no obstacle.
        read_image(large, max_pixels=200_000_000)
    assert Image.MAX_IMAGE_PIXELS is not None and Image.MAX_IMAGE_PIXELS >= 200_000_000
    with pytest.raises(UnreadableImage, match="20000 × 10000 pixels, more than the limit of 199,999,999; raise it"):
        read_image(large, max_pixels=199_999_999)


def test_the_limit_of_the_configuration_is_that_of_the_data(make_folder):
    root = make_folder({"a": 6, "b": 6})
    assert len(load_dataset({"root": root, "max_pixels": 40 * 30}, seed=0).test)
    with pytest.raises(DataError, match="40 × 30 pixels, more than the limit of 1,199; .*max_pixels=1200"):
        load_dataset({"root": root, "max_pixels": 40 * 30 - 1}, seed=0)


def test_predict_takes_the_limit_of_training_unless_it_is_given_another(tmp_path):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")

    def unreadable(**given):
        paths = [str(tmp_path / "a.png")]
        with file_stream(paths, Preprocessing(image_size=8), DataConfig(max_pixels=99), **given) as stream:
            (found,) = stream
        return found.unreadable

    assert "10 × 10 pixels, more than the limit of 99;" in unreadable()[0]
    assert unreadable(max_pixels=100) == {}
