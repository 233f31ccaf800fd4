"""Real images, as people have them."""

import numpy as np
import pytest

from flax_augtl.data import load_dataset


def test_a_folder_with_real_mess(real_folder):
    """One `.jpeg` among the `.jpg`, and a GIF that says “image not found”; all of them can be read."""
    dataset = load_dataset({"root": real_folder / "hymenoptera", "validation": 0.2}, seed=0)
    assert dataset.class_names == ("ants", "bees") and not dataset.skipped
    assert len(dataset.test) == 153
    ids = [*dataset.train.ids, *dataset.val.ids]
    assert sum(name.endswith(".gif") for name in [*ids, *dataset.test.ids]) == 1
    assert len(ids) == len(set(ids)) and any("validation split is taken from train" in note for note in dataset.notes)


@pytest.mark.slow
def test_published_lists(real_folder):
    root = real_folder / "caltech101"
    dataset = load_dataset({"name": "list", "root": root / "images", "train_list": "../train.txt",
                            "test_list": "../test.txt", "validation": 0.2}, seed=0)  # fmt: skip
    assert len(dataset.class_names) == 101
    assert len(dataset.train) + len(dataset.val) == 3030 and len(dataset.test) == 1692
    assert (np.bincount(dataset.train.labels) == 24).all() and (np.bincount(dataset.val.labels) == 6).all()
    for split in (dataset.train, dataset.val, dataset.test):
        names = [dataset.class_names[label] for label in split.labels]
        assert names == [path.split("/")[0] for path in split.ids]
