"""The two datasets that need no download."""

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from flax_augtl.data import DataError, load_dataset
from flax_augtl.data.sources.digits import digits
from flax_augtl.data.sources.glyphs import CLASS_NAMES, _fonts, _masters, glyphs


def test_digits_are_scikit_learns():
    source, labels = digits()
    bunch: Any = load_digits()
    assert source.images.shape == (1797, 32, 32, 3) and source.images.dtype == np.uint8
    np.testing.assert_array_equal(labels, bunch.target)
    shrunk = source.images[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4))  # Ink is white, and where it was.
    correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(shrunk, bunch.images, strict=True)]
    assert min(correlation) > 0.95


def test_digits_train_on_ten_a_class_and_test_on_a_thousand():
    dataset = load_dataset({"name": "digits", "validation": 0.2}, seed=0)
    assert (np.bincount(dataset.train.labels) == 8).all() and (np.bincount(dataset.val.labels) == 2).all()
    assert len(dataset.test) == 1000
    everything = dataset.train.ids + dataset.val.ids + dataset.test.ids
    assert len(set(everything)) == 1100
    source, labels = digits()
    for split in (dataset.train, dataset.val, dataset.test):
        np.testing.assert_array_equal(split.labels, labels[split.indices])


def test_digits_with_other_shots_and_seeds():
    splits = [load_dataset({"name": "digits", "shots": 3, "validation": 0}, seed=seed) for seed in range(3)]
    assert all(len(split.train) == 30 and split.val is None for split in splits)
    assert len({split.train.ids for split in splits}) == 3
    with pytest.raises(DataError, match="shots=500"):
        load_dataset({"name": "digits", "shots": 500}, seed=0)


def test_glyphs_are_a_function_of_split_and_seed_alone():
    few, labels = glyphs("train", 2, 0)
    glyphs.cache_clear()
    more, more_labels = glyphs("train", 3, 0)
    assert few.images.shape == (2 * len(CLASS_NAMES), 32, 32, 3)
    np.testing.assert_array_equal(more.images[: len(few)], few.images)
    np.testing.assert_array_equal(more_labels[: len(labels)], labels)
    assert (np.bincount(labels) == 2).all()
    for other in (glyphs("train", 2, 1), glyphs("test", 2, 0)):
        assert (other[0].images != few.images).any((1, 2, 3)).all()


def test_glyphs_are_white_on_black_and_varied():
    images = glyphs("train", 2, 0)[0].images[..., 0].astype(float)
    border = np.concatenate([images[:, 0], images[:, -1]], 1)
    assert border.mean() < 40 < images.max((1, 2)).min()
    first, second = images[: len(CLASS_NAMES)], images[len(CLASS_NAMES) :]
    assert (np.abs(first - second).mean((1, 2)) > 1).all()


def test_about_two_hundred_characters_each_in_several_fonts_and_no_digit():
    assert 150 < len(CLASS_NAMES) == len(set(CLASS_NAMES)) < 250
    assert not any(character.isdigit() for character in CLASS_NAMES)
    for character in CLASS_NAMES:
        assert sum(ord(character) in covered for _, covered in _fonts()) >= 6


def test_no_two_characters_look_the_same():
    """Once scaled to one size and coarse; a label that cannot be told would only be noise."""

    def looks(label):
        coarse = [np.asarray(m.crop((24, 24, 72, 72)).resize((12, 12)), float).ravel() for m in _masters(label)]
        centred = np.array(coarse) - np.mean(coarse, 1, keepdims=True)
        return centred / np.linalg.norm(centred, axis=1, keepdims=True)

    of = [looks(label) for label in range(len(CLASS_NAMES))]
    alike = [
        (CLASS_NAMES[i], CLASS_NAMES[j])
        for i in range(len(of))
        for j in range(i)
        if np.median((of[i] @ of[j].T).max(1)) > 0.87  # In most fonts there is a font in which the other looks so.
    ]
    assert not alike


def test_glyph_splits_have_the_sizes_asked_for():
    dataset = load_dataset({"name": "glyphs", "shots": 3, "validation": 1 / 3}, seed=0)
    classes = len(CLASS_NAMES)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (2 * classes, classes, 10 * classes)
    other = load_dataset({"name": "glyphs", "shots": 3, "validation": 1 / 3}, seed=1)
    assert other.test.ids == dataset.test.ids and not set(other.train.ids) & set(dataset.train.ids)
