"""The evaluation transform: what it keeps, what it computes, what it refuses."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from flax_augtl.data.images.strips import without_ends
from flax_augtl.pretrained import Preprocessing


def test_survives_json_and_hashes():
    p = Preprocessing(224, 0.95, "bicubic", "BGR", 255.0, (103.939, 116.779, 123.68), (1, 1, 1))
    again = Preprocessing.from_json(json.loads(json.dumps(p.to_json())))
    assert again == p and hash(again) == hash(p) and p != Preprocessing()
    assert Preprocessing(mean=[0.1, 0.2, 0.3]) == Preprocessing(mean=(0.1, 0.2, 0.3))
    assert p.replace(image_size=32).image_size == 32 and p.image_size == 224


@pytest.mark.parametrize(
    ("size", "fraction", "resized"),
    [(224, 0.875, 256), (224, 224 / 232, 232), (224, 0.95, 235), (32, 1.0, 32), (299, 0.875, 341), (160, 0.9, 177)],
)
def test_resize_size(size, fraction, resized):
    assert Preprocessing(size, fraction).resize_size == resized


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 0),
        ("image_size", 2.5),
        ("crop_fraction", 0.0),
        ("crop_fraction", 1.1),
        ("interpolation", "cubic"),
        ("channel_order", "GBR"),
        ("value_range", 0.0),
        ("mean", (1, 2)),
        ("mean", "0.5"),
        ("std", (1, 0, 1)),
    ],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(ValueError, match=f"preprocessing: {field} must be"):
        Preprocessing(**{field: value})


def test_unknown_fields_are_named():
    for make in (Preprocessing.from_json, lambda fields: Preprocessing().replace(**fields)):
        with pytest.raises(ValueError, match="no field size; its fields are image_size, crop_fraction"):
            make({"size": 3})


@pytest.mark.parametrize("size", [(60_001, 1), (2, 9_000), (20_000, 3)])
def test_of_a_strip_only_the_centre_is_scaled(size):
    short, long = sorted(size)
    ramp = np.clip(np.arange(long) - (long - 256) // 2, 0, 255).astype(np.uint8)  # Brightness tells the place.
    pixels = np.broadcast_to(ramp[None, :, None], (short, long, 3))
    strip = Image.fromarray(np.ascontiguousarray(pixels if size[0] > size[1] else pixels.transpose(1, 0, 2)))
    left = without_ends(strip)
    assert min(left.size) == short and max(left.size) - 100 * short in (0, 1)
    crop = Preprocessing().resize_and_crop(strip)
    # The crop is as wide as the strip, times the crop fraction; brightness rises by one a pixel, around the middle.
    assert crop.shape == (224, 224, 3)
    assert abs(crop[112, 112, 0] - 127.5) <= 1
    ends = crop[112, [0, -1], 0] if size[0] > size[1] else crop[[0, -1], 112, 0]
    assert abs(int(ends[1]) - int(ends[0]) - 0.875 * short) <= 1


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (31, 47), (24, 24), (9, 100)])
def test_short_side_is_resized_and_the_centre_cut_out(width, height):
    # An image that is linear in x and y stays so when resized, so each pixel tells where it came from.
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    pixels = np.stack([255 * x, 255 * y, 0 * x], -1).round().astype(np.uint8)
    p = Preprocessing(image_size=20, crop_fraction=20 / 24)
    crop = p.resize_and_crop(Image.fromarray(pixels))
    assert crop.shape == (20, 20, 3) and crop.dtype == np.uint8
    resized = [24, int(24 * height / width)] if width <= height else [int(24 * width / height), 24]
    centre = np.array([(r // 2 if r % 2 == 0 else (r - 1) / 2 + 0.5) / r for r in resized])
    got = crop[9:11, 9:11, :2].mean((0, 1)) / 255
    np.testing.assert_allclose(got, centre, atol=0.6 / min(resized))


def test_normalise_is_the_closed_form_in_and_outside_jit():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    p = Preprocessing()
    expected = (pixels / 255 - np.array(p.mean)) / np.array(p.std)
    np.testing.assert_allclose(p.normalise(pixels), expected, atol=1e-6)
    np.testing.assert_allclose(jax.jit(p.normalise)(pixels), expected, atol=1e-6)
    bgr = Preprocessing(channel_order="BGR", value_range=255.0, mean=(103.939, 116.779, 123.68), std=(1, 1, 1))
    expected = pixels[..., ::-1].astype(np.float64) - np.array([103.939, 116.779, 123.68])
    np.testing.assert_allclose(bgr.normalise(pixels), expected, atol=1e-4)


def test_images_of_any_size_make_one_batch():
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((50, 60), (300, 200), (1, 1))]
    x = Preprocessing(image_size=32)(images)
    assert x.shape == (3, 32, 32, 3) and x.dtype == np.float32
    p = Preprocessing(image_size=32)
    np.testing.assert_array_equal(x[1], p.normalise(p.resize_and_crop(Image.fromarray(images[1]))))


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)]
)
def test_what_is_not_an_image_is_named_by_its_place(bad):
    with pytest.raises(ValueError, match=r"image 1: expected uint8 \[H, W, 3\], got"):
        Preprocessing()([np.zeros((4, 4, 3), np.uint8), bad])


def test_an_empty_list_is_refused():
    with pytest.raises(ValueError, match="list is empty"):
        Preprocessing()([])
    with pytest.raises(ValueError, match="expected uint8 pixels"):
        Preprocessing().normalise(np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="mode L"):
        Preprocessing().resize_and_crop(Image.new("L", (5, 5)))
