"""Random changes of images are the same wherever the images come from: batches, the device, or kept features."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import flax_augtl
from flax_augtl.config.convert import typed
from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import load_dataset
from flax_augtl.data.images.augment import augment, augmentations
from flax_augtl.features.views import Rows, has_draws
from flax_augtl.pretrained import Preprocessing
from flax_augtl.training.experiment import prepare
from tests import small

CHANGES = {"flip": "both", "rotate": "right_angles", "blur": 0.7, "shift": 0, "view_seed": 3}


def config(**data):
    fields = {"name": "digits", "shots": 4, "validation": 0.25, "crop": "none", **CHANGES, **data}
    return small.digits_config(weights="embedded:glyphs", freeze="all", steps=2, data=fields)


@pytest.mark.slow
def test_data_on_the_device_are_changed_alike(tmp_path):
    found = [
        flax_augtl.train(config(cache=cache, rotate=20.0), tmp_path / cache, quiet=True).variables
        for cache in ("none", "device")
    ]
    # Two programs, which need not round alike.
    for expected, same in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(same, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rotate", ["right_angles", 20.0])
def test_kept_views_are_those_of_training(rotate):
    data = typed(config(views=3, rotate=rotate, threads=2)).data
    preprocessing = Preprocessing(image_size=8, crop_fraction=1.0)
    train = load_dataset(data, seed=0).train
    rows = Rows([train], preprocessing, data, views=3)
    plain = Rows([train], preprocessing, dataclasses.replace(data, flip="none", rotate=0.0, blur=0.0), views=0)
    assert rows.key != plain.key
    with rows.decoders() as pool:
        images = plain.images(np.arange(len(train)), pool)
        np.testing.assert_array_equal(rows.images(rows.of(train.ids, -1), pool), images)
        for view in range(3):
            views = np.full(len(train), view, np.int32)
            changed = augment(images, train.draw_ids, views, view_seed=3, **augmentations(data))
            np.testing.assert_array_equal(rows.images(rows.of(train.ids, view), pool), changed)
            assert (np.asarray(changed) != images).any()


def test_each_change_makes_views_and_none_makes_none():
    quiet = DataConfig(crop="none", flip="none")
    assert not has_draws(quiet)
    for change in ({"flip": "horizontal"}, {"flip": "both"}, {"rotate": 1}, {"rotate": "right_angles"}, {"blur": 0.1}):
        assert has_draws(dataclasses.replace(quiet, **change))


def test_a_mistake_is_named_before_anything_is_loaded():
    for name, value, said in (
        ("flip", "vertical", "config.data.flip='vertical' is not one of none, horizontal, both"),
        ("rotate", 200, "config.data.rotate=200 must be an angle of 0 to 180 degrees, or right_"),
        ("blur", -1.0, "config.data.blur=-1.0 must be at least 0"),
    ):
        with pytest.raises(ValueError, match=said):
            prepare(typed(config(**{name: value, "root": "/nowhere", "name": "digits"})))


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    config = small.digits_config(weights="embedded:glyphs", freeze="all", steps=2)
    run = flax_augtl.train(config, tmp_path, quiet=True)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    assert old["data"]["flip"] == "none"
    old["data"]["flip"] = False
    for field in ("rotate", "blur", "max_pixels"):
        del old["data"][field]
    del old["preprocessing"]["resize"]
    path.write_text(json.dumps(old))
    assert flax_augtl.train(config, tmp_path, quiet=True).step == run.step
    assert flax_augtl.load_run(tmp_path).config.data.flip == "none"
    config.data.flip = "both"
    with pytest.raises(ValueError, match="data.flip"):
        flax_augtl.train(config, tmp_path, quiet=True)
