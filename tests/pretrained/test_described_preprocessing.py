"""The descriptions of transformers and timm: each field is supported, or refused until it is set by hand."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from configs import common
from flax_augtl.config.convert import typed
from flax_augtl.models import create_model
from flax_augtl.models.initializers import random_variables
from flax_augtl.pretrained import CheckpointError, Preprocessing, load_source, preprocessor_config, timm_preprocessing
from flax_augtl.pretrained.convert import to_state_dict
from flax_augtl.training.experiment import source_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5,) * 3
SHOWN = {"image_mean": list(MEAN), "image_std": list(STD), "resample": 2}
VIT, CLIP = (
    {"image_processor_type": "ViTImageProcessor", **SHOWN},
    {"image_processor_type": "CLIPImageProcessor", **SHOWN},
)


@pytest.mark.parametrize(("fields", "expected"), [
    ({"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875, **SHOWN}, {}),
    ({"size": {"shortest_edge": 224}, **SHOWN}, {}),
    ({"size": {"shortest_edge": 224}, **SHOWN, "do_normalize": False}, {"mean": (0,) * 3, "std": (1,) * 3}),
    ({"size": {"shortest_edge": 384}, **SHOWN}, {"image_size": 384, "crop_fraction": 1.0, "resize": "squash"}),
    ({"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 192, **SHOWN},
     {"image_size": 192, "crop_fraction": 192 / 256}),
    ({"image_processor_type": "ConvNextImageProcessorFast"},
     {"image_size": 384, "crop_fraction": 1.0, "resize": "squash", "interpolation": "bicubic", "mean": HALF, "std": HALF}),
    ({**VIT, "size": {"height": 224, "width": 224}}, {"crop_fraction": 1.0, "resize": "squash"}),
    ({**VIT, "size": 160}, {"image_size": 160, "crop_fraction": 1.0, "resize": "squash"}),
    ({**VIT, "size": [160, 160]}, {"image_size": 160, "crop_fraction": 1.0, "resize": "squash"}),
    ({**VIT, "size": 256, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}, {"resize": "squash"}),
    ({**VIT, "resample": 4}, {"interpolation": "box", "crop_fraction": 1.0, "resize": "squash"}),
    ({**VIT, "resample": "bicubic"}, {"interpolation": "bicubic", "crop_fraction": 1.0, "resize": "squash"}),
    ({**VIT, "image_mean": 0.5, "image_std": [0.25]},
     {"mean": HALF, "std": (0.25,) * 3, "crop_fraction": 1.0, "resize": "squash"}),
    ({**VIT, "do_rescale": False}, {"value_range": 255, "crop_fraction": 1.0, "resize": "squash"}),
    ({**VIT, "rescale_factor": 1 / 127.5}, {"value_range": 2, "crop_fraction": 1.0, "resize": "squash"}),
    ({**VIT, "do_normalize": False, "rescale_factor": 1 / 127.5, "rescale_offset": True},
     {"value_range": 2, "mean": (1,) * 3, "std": (1,) * 3, "crop_fraction": 1.0, "resize": "squash"}),
    ({**VIT, "do_normalize": False, "do_flip_channel_order": True},
     {"channel_order": "BGR", "mean": (0,) * 3, "std": (1,) * 3, "crop_fraction": 1.0, "resize": "squash"}),
    ({**VIT, "do_pad": None, "do_center_crop": None, "do_convert_rgb": True}, {"crop_fraction": 1.0, "resize": "squash"}),
    (CLIP, {"crop_fraction": 1.0}),
    ({**CLIP, "size": 256}, {}),
    ({**CLIP, "do_resize": False, "crop_size": 200}, {"image_size": 200, "crop_fraction": 1.0, "resize": "none"}),
    ({"image_processor_type": "EfficientNetImageProcessor", **SHOWN, "image_std": 0.5},
     {"image_size": 346, "crop_fraction": 1.0, "resize": "squash", "std": (0.25,) * 3}),
])  # fmt: skip
def test_every_field_of_transformers(fields, expected):
    assert preprocessor_config.read(fields) == (Preprocessing().replace(crop_rounding="down", **expected), [])


@pytest.mark.parametrize(("fields", "expected"), [
    ({}, {"interpolation": "bicubic"}),
    ({"crop_mode": "squash", "crop_pct": 0.9}, {"interpolation": "bicubic", "resize": "squash", "crop_fraction": 0.9}),
    ({"crop_mode": "center", "interpolation": "hamming"}, {"interpolation": "hamming"}),
    ({"input_size": [3, 160, 160], "test_input_size": [3, 288, 288], "test_crop_pct": 1.0, "crop_pct": 0.95,
      "interpolation": "bilinear", "mean": [0.5], "std": [0.5, 0.5, 0.5], "fixed_input_size": False},
     {"image_size": 160, "crop_fraction": 0.95, "mean": HALF, "std": HALF}),
])  # fmt: skip
def test_every_field_of_timm(fields, expected):
    assert timm_preprocessing.read(fields) == (Preprocessing().replace(**expected), [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a small ResNet, and a function that puts descriptions beside it."""
    path = tmp_path_factory.mktemp("described")
    variables = random_variables(create_model("resnet20", num_classes=5))
    save_file(to_state_dict("resnet20", variables), path / "model.safetensors")

    def described(**files):
        for name in ("config", "preprocessor_config"):
            (path / f"{name}.json").unlink(missing_ok=True)
        for name, content in files.items():
            (path / f"{name}.json").write_text(json.dumps(content))
        return path

    return described


REFUSED = [
    ({**VIT, "do_resize": False}, "do_resize=False", {"resize": "squash"}),
    ({**VIT, "size": {"height": 224, "width": 200}}, "size={'height': 224, 'width': 200}", {"resize": "squash"}),
    ({**VIT, "size": 224, "max_size": 300}, "size=224", {"resize": "squash"}),
    ({**VIT, "size": {"longest_edge": 224}}, "size={'longest_edge': 224}", {"resize": "short_side"}),
    (
        {**CLIP, "do_center_crop": False},
        "do_center_crop=False with size={'shortest_edge': 224}",
        {"crop_fraction": 0.9},
    ),
    ({**CLIP, "crop_size": 256}, "crop_size=256 with size={'shortest_edge': 224}", {"crop_fraction": 1.0}),
    (
        {**CLIP, "crop_size": {"height": 224, "width": 192}},
        "crop_size={'height': 224, 'width': 192}",
        {"resize": "squash"},
    ),
    ({**VIT, "resample": 9}, "resample=9", {"interpolation": "bicubic"}),
    ({**VIT, "rescale_factor": 0}, "rescale_factor=0", {"value_range": 1.0}),
    ({**VIT, "image_std": [0, 0, 0]}, "image_std=[0, 0, 0]", {"std": STD}),
    ({**VIT, "image_mean": [0.1, 0.2]}, "image_mean=[0.1, 0.2]", {"mean": MEAN}),
    ({**VIT, "do_pad": True}, "do_pad=True", {"resize": "squash"}),
    ({**VIT, "do_grayscale": True}, "do_grayscale=True", {"resize": "squash"}),
    ({**SHOWN, "image_processor_type": "GLPNImageProcessor"}, "image_processor_type=GLPN", {"resize": "squash"}),
    ({**VIT, "auto_map": {"AutoImageProcessor": "x.Y"}}, "auto_map (code of its own)", {"resize": "squash"}),
]


@pytest.mark.parametrize(("fields", "said", "by_hand"), REFUSED)
def test_a_field_of_transformers_that_is_not_supported_is_named_and_replaced_by_hand(folder, fields, said, by_hand):
    path = folder(preprocessor_config=fields)
    field = next(iter(by_hand))
    with pytest.raises(CheckpointError) as error:
        load_source("resnet20", path, preprocessing={"image_size": 32})
    assert f"asks for preprocessing that is not supported:\n  {said}: set config.preprocessing." in str(error.value)
    assert f"config.preprocessing.{field}" in str(error.value)
    p = load_source("resnet20", path, preprocessing={"image_size": 32, **by_hand}).preprocess
    assert p.image_size == 32 and getattr(p, field) == by_hand[field]


@pytest.mark.parametrize(
    ("fields", "said", "by_hand"),
    [
        ({"crop_mode": "border"}, "crop_mode='border'", {"resize": "squash"}),
        ({"interpolation": "random"}, "interpolation='random'", {"interpolation": "bicubic"}),
        ({"input_size": [3, 32, 48]}, "input_size=[3, 32, 48]", {"image_size": 32}),
        ({"crop_pct": 1.2}, "crop_pct=1.2", {"crop_fraction": 1.0}),
        ({"std": [0.0, 1.0, 1.0]}, "std=[0.0, 1.0, 1.0]", {"std": STD}),
    ],
)
def test_a_field_of_timm_that_is_not_supported_is_named_and_replaced_by_hand(folder, fields, said, by_hand):
    path = folder(config={"architecture": "resnet20", "pretrained_cfg": fields})
    field = next(iter(by_hand))
    name = "config.image_size" if field == "image_size" else f"config.preprocessing.{field}"
    config = common.get_config()
    config.network, config.weights = "resnet20", str(path)
    with pytest.raises(CheckpointError) as error:
        source_of(typed(config))
    assert f"  {said}: set {name} by hand\n" in str(error.value)
    (config if field == "image_size" else config.preprocessing)[field] = by_hand[field]
    assert getattr(source_of(typed(config))[1], field) == by_hand[field]


def test_a_preprocessor_config_without_a_config_counts(folder):
    assert load_source(None, folder(preprocessor_config=VIT)).preprocess.resize == "squash"
    assert load_source(None, folder()).preprocess.resize == "short_side"


def random_image(width, height):
    rng = np.random.default_rng(width)
    return Image.fromarray(rng.integers(0, 256, (height // 5, width // 5, 3), np.uint8)).resize((width, height), 3)


@pytest.mark.parametrize("size", [(50, 30), (30, 50), (40, 40), (3000, 10)])
def test_squashing_is_pillows_resize_of_the_whole_image(size):
    image = random_image(*size)
    whole = Preprocessing(image_size=20, crop_fraction=1.0, resize="squash").resize_and_crop(image)
    np.testing.assert_array_equal(whole, image.resize((20, 20), Image.Resampling.BILINEAR))
    centre = Preprocessing(image_size=20, crop_fraction=20 / 24, resize="squash").resize_and_crop(image)
    np.testing.assert_array_equal(centre, np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR))[2:22, 2:22])


def test_without_a_resize_the_centre_is_cropped_and_padded_with_black():
    p = Preprocessing(image_size=20, crop_fraction=1.0, resize="none")
    image = random_image(50, 30)
    np.testing.assert_array_equal(p.resize_and_crop(image), np.asarray(image)[5:25, 15:35])
    narrow = p.resize_and_crop(random_image(50, 10))
    np.testing.assert_array_equal(narrow[5:15], np.asarray(random_image(50, 10))[:, 15:35])
    assert not narrow[:5].any() and not narrow[15:].any()


def test_half_pixels_are_rounded_as_in_the_library():
    """The centre crops of torchvision and transformers differ by a pixel: 8 of 40 photographs changed their top-1."""
    image = random_image(35, 30)
    torchvision = Preprocessing(image_size=20, crop_fraction=1.0, resize="none")
    np.testing.assert_array_equal(torchvision.resize_and_crop(image), np.asarray(image)[5:25, 8:28])
    transformers = torchvision.replace(crop_rounding="down")
    np.testing.assert_array_equal(transformers.resize_and_crop(image), np.asarray(image)[5:25, 7:27])
    # Of a smaller image, transformers has the larger border on the right.
    narrow = transformers.resize_and_crop(random_image(15, 30))
    np.testing.assert_array_equal(narrow[:, 2:17], np.asarray(random_image(15, 30))[5:25])
    assert "crop_rounding" not in torchvision.to_json()
    assert Preprocessing.from_json(transformers.to_json()) == transformers
    with pytest.raises(ValueError, match="crop_rounding must be one of nearest, down, got 'up'"):
        Preprocessing(crop_rounding="up")


def test_a_description_without_the_new_field_means_the_short_side():
    old = {name: value for name, value in Preprocessing().to_json().items() if name != "resize"}
    assert Preprocessing.from_json(old) == Preprocessing(resize="short_side")
    squashed = Preprocessing(resize="squash")
    assert Preprocessing.from_json(json.loads(json.dumps(squashed.to_json()))) == squashed
    with pytest.raises(ValueError, match="resize must be one of short_side, squash, none, got 'pad'"):
        Preprocessing(resize="pad")
