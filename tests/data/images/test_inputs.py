"""What `Run.predict` takes."""

import os

import numpy as np
import pytest
from PIL import Image

from flax_augtl.data.images import inputs
from flax_augtl.pretrained import Preprocessing

PREPROCESSING = Preprocessing(image_size=8, crop_fraction=1.0)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)


def test_an_array_a_pillow_image_and_a_file_of_it_are_one_input(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)
    expected = inputs.network_input(PIXELS, PREPROCESSING)
    assert expected.shape == (8, 8, 3) and expected.dtype == np.uint8
    for image in (Image.fromarray(PIXELS), path, str(path)):
        np.testing.assert_array_equal(inputs.network_input(image, PREPROCESSING), expected)


def test_a_pillow_image_is_turned_upright_as_its_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "image.png", exif=exif)
    with Image.open(tmp_path / "image.png") as image:
        np.testing.assert_array_equal(
            inputs.network_input(image, PREPROCESSING), inputs.network_input(tmp_path / "image.png", PREPROCESSING)
        )


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PIXELS.astype(float), r"An image must be uint8 \[H, W, 3\], not float64 \[12, 10, 3\]\."),
        (PIXELS[..., 0], r"An image must be uint8 \[H, W, 3\], not uint8 \[12, 10\]\."),
        (7, "An image must be a uint8 array .*, a Pillow image or a path, not 7"),
        (
            "absent.png",
            f"^The image absent.png cannot be read: there is no such file. Its path is relative to {os.getcwd()}.$",
        ),
        (__file__, r"test_image_inputs.py cannot be read: its content is not an image in a known format\.$"),
    ],
)
def test_anything_else_is_named(image, message):
    with pytest.raises(ValueError, match=message):
        inputs.network_input(image, PREPROCESSING)


@pytest.mark.parametrize("one", ["a.jpg", Image.fromarray(PIXELS), PIXELS])
def test_a_single_image_is_not_several(one):
    with pytest.raises(ValueError, match=r"several images, in a list: run\.predict\(\[image\]\)"):
        list(inputs.batches(one, 2))


def test_batches_come_from_any_iterable():
    assert list(inputs.batches(iter("abc"), 2)) == [["a", "b"], ["c"]]
    assert list(inputs.batches([], 2)) == []
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        list(inputs.batches(["a"], 0))
