"""Folds: each image is tested once, classes are even, and settings that make no folds are told."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import DataError, dataset_from_arrays, load_dataset
from flax_augtl.data.splits.folds import over_all


@given(counts=st.lists(st.integers(6, 30), min_size=2, max_size=6), count=st.integers(2, 6), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_each_image_is_tested_in_one_fold_and_classes_are_even(counts, count, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, 3)
    made = [
        dataset_from_arrays(images, labels, seed=seed, data={"folds": count, "fold": fold, "validation": 0})
        for fold in range(count)
    ]
    assert sorted(name for dataset in made for name in dataset.test.ids) == sorted(
        (*made[0].train.ids, *made[0].test.ids)
    )
    assert all(not set(dataset.test.ids) & set(dataset.train.ids) for dataset in made)
    sizes = [len(dataset.test) for dataset in made]
    assert max(sizes) - min(sizes) <= 1
    of_class = np.array([np.bincount(dataset.test.labels, minlength=len(counts)) for dataset in made])
    assert (of_class.max(0) - of_class.min(0) <= 1).all()


def test_a_fold_is_one_for_all_seeds_and_another_for_another_split_seed(make_folder):
    root = make_folder({"a": 12, "b": 12})
    load = {"root": root, "folds": 4, "fold": 3}
    made = [load_dataset(load, seed=seed) for seed in range(4)]
    assert len({dataset.test.ids for dataset in made}) == 1 and len({dataset.val.ids for dataset in made}) > 1
    assert load_dataset({**load, "split_seed": 1}, seed=0).test.ids != made[0].test.ids
    assert made[0].notes == (
        "6 of 24 images are the test split: fold 3 of the folds 0 to 3 (config.data.split_seed=0).",
    )


def test_a_test_split_of_the_datas_own_is_not_used(make_folder):
    root = make_folder({f"{split}/{name}": 8 for split in ("train", "val", "test") for name in "ab"})
    dataset = load_dataset({"root": root, "folds": 4, "fold": 0}, seed=0)
    assert {path.split("/")[0] for path in (*dataset.train.ids, *dataset.test.ids)} == {"train"}
    assert len(dataset.test) == 4 and len(dataset.val) == 16 and dataset.val.ids[0].startswith("val/")
    assert dataset.notes[-1].endswith("The test split that the data come with, 16 images, is not used.")


def test_folds_of_digits_divide_all_of_them():
    made = [load_dataset({"name": "digits", "folds": 5, "fold": fold}, seed=0) for fold in range(5)]
    assert sorted(len(dataset.test) for dataset in made) == [359, 359, 359, 360, 360]
    assert all(len(dataset.train) == 80 and len(dataset.val) == 20 for dataset in made)


@pytest.mark.parametrize(
    "data, message",
    [
        (
            {"folds": 5},
            "config.data.folds=5 needs config.data.fold, from 0 to 4: the fold that is the test split. Without it, "
            "main.py trains all folds",
        ),
        ({"folds": 5, "fold": 5}, "config.data.fold=5 must be a whole number from 0 to 4, because config.data.folds=5"),
        ({"folds": 5, "fold": -1}, "config.data.fold=-1 must be at least 0"),
        ({"folds": 1, "fold": 0}, "config.data.folds=1 must be a whole number of at least 2, or 0 for none"),
        ({"folds": 2.5, "fold": 0}, "config.data.folds=2.5 must be a whole number"),
        ({"fold": 1}, "config.data.fold=1 has no effect without config.data.folds"),
        ({"folds": 30, "fold": 1}, "config.data.folds=30 needs at least as many images, and there are 24"),
    ],
)
def test_mistakes_are_told(make_folder, data, message):
    root = make_folder({"a": 12, "b": 12})
    with pytest.raises(ValueError, match=message):
        load_dataset({"root": root, **data}, seed=0)


def test_a_class_with_one_image_cannot_be_tested():
    images = np.arange(9, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, 3)
    with pytest.raises(
        DataError, match="All images of these classes are in one fold, .*: rare. They have one image only"
    ):
        dataset_from_arrays(images, ["a"] * 8 + ["rare"], data={"folds": 2, "fold": 0})


def test_all_folds_are_meant_where_none_is_named():
    assert over_all(DataConfig(folds=5))
    assert not over_all(DataConfig(folds=5, fold=0)) and not over_all(DataConfig())
