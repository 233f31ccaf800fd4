import numpy as np
import pytest

from flax_augtl.data import DataError, dataset_from_arrays, dataset_from_files
from flax_augtl.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)


def test_arrays_alone_are_split():
    dataset = dataset_from_arrays(IMAGES, np.arange(30) % 3, data={"test": 0.2, "validation": 0.25}, seed=1)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (18, 6, 6)
    assert dataset.class_names == ("0", "1", "2")
    for split in (dataset.train, dataset.val, dataset.test):
        for index, label in zip(split.indices, split.labels, strict=True):
            assert index % 3 == label
            np.testing.assert_array_equal(split.source[index], IMAGES[index])


def test_arrays_with_test_and_names():
    names = np.array(["dog", "cat"] * 15)
    dataset = dataset_from_arrays(IMAGES, names, test=(IMAGES[:4] ^ 1, names[:4]), data={"shots": 3, "validation": 0})
    assert dataset.class_names == ("cat", "dog")
    assert np.bincount(dataset.train.labels).tolist() == [3, 3]
    assert dataset.test.labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    "images, labels, arguments, message",
    [
        (IMAGES.astype(float), np.arange(30) % 3, {}, "must be uint8"),
        (IMAGES[..., 0], np.arange(30) % 3, {}, "must be uint8"),
        (IMAGES, np.arange(29) % 3, {}, "30 images and 29 labels"),
        (IMAGES, np.arange(30) % 3, {"class_names": ("a", "b")}, "10 labels of arrays are out of range 0 … 1"),
        (IMAGES, np.arange(30) % 3 - 1, {}, "out of range"),
        (IMAGES, ["a", "b", "x"] * 10, {"class_names": ("a", "b")}, "out of range"),
        (IMAGES, np.zeros(30, int), {}, "has 1 classes"),
        (IMAGES, np.arange(30) / 3, {}, "whole numbers or names"),
        (
            IMAGES,
            np.arange(30) % 3,
            {"data": {"validatoin": 0.2}},
            "no field config.data.validatoin. Did you mean config.data.validation",
        ),
        (IMAGES, np.arange(30) % 3, {"class_names": ("a", "b", "a")}, "must differ; 'a' is there more than once"),
        (IMAGES, np.arange(30) % 3, {"val": (IMAGES, np.arange(30) % 3)}, "Give `test` with `val`"),
    ],
)
def test_arrays_that_are_wrong(images, labels, arguments, message):
    with pytest.raises(UserError, match=message):
        dataset_from_arrays(images, labels, **arguments)


def test_an_iterable_of_files(make_folder):
    root = make_folder({"x": 6, "y": 6})
    files = ((path, path.parent.name) for path in sorted(root.glob("*/*.png")))
    dataset = dataset_from_files(files, data={"test": 4, "validation": 0})
    assert dataset.class_names == ("x", "y") and (len(dataset.train), len(dataset.test)) == (8, 4)
    for path, label in zip(dataset.train.ids, dataset.train.labels, strict=True):
        assert f"/{dataset.class_names[label]}/" in path
    assert dataset.train.source[int(dataset.train.indices[0])].size == (40, 30)


def test_files_that_are_wrong(make_folder):
    root = make_folder({"x": 2, "y": 2})
    with pytest.raises(DataError, match="x/000.png .* is there twice"):
        dataset_from_files([(root / "x/000.png", 0), (root / "x/000.png", 0), (root / "y/000.png", 1)])
    with pytest.raises(DataError, match="no files to train on"):
        dataset_from_files([])
    with pytest.raises(DataError, match="no such file"):
        dataset_from_files([(root / "x/nine.png", 0), (root / "y/000.png", 1)])
