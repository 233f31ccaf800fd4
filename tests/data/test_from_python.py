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
        (IMAGES, np.arange(30) % 3, {"class_names": ("a", "b", "a")}, "must differ; 'a' is given more than once"),
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
    with pytest.raises(DataError, match="x/000.png .* occurs twice"):
        dataset_from_files([(root / "x/000.png", 0), (root / "x/000.png", 0), (root / "y/000.png", 1)])
    with pytest.raises(DataError, match="no files to train on"):
        dataset_from_files([])
    with pytest.raises(DataError, match="no such file"):
        dataset_from_files([(root / "x/nine.png", 0), (root / "y/000.png", 1)])


# Ten patients with three images each, in another order than the images; the label is that of the patient.
PATIENTS = [f"p{i % 10}" for i in range(30)]
SICK = [i % 10 % 2 for i in range(30)]


@pytest.fixture
def patients(make_folder):
    """(path, label) pairs and the patient of each, the last ones first."""
    root = make_folder({"sick": 15, "well": 15})
    pairs = [(path, path.parent.name) for path in sorted(root.glob("*/*.png"), reverse=True)]
    return pairs, [f"{path.parent.name}{int(path.stem) // 3}" for path, _ in pairs]


def splits_of(dataset):
    return {name: split for name in ("train", "val", "test") if (split := getattr(dataset, name)) is not None}


@pytest.mark.parametrize("groups", [PATIENTS, np.array(PATIENTS), np.arange(30) % 10, tuple(PATIENTS)])
@pytest.mark.parametrize("seed", [0, 1])
def test_all_images_of_a_group_are_in_one_split(groups, seed):
    dataset = dataset_from_arrays(IMAGES, SICK, groups=groups, data={"test": 0.3, "validation": 0.3}, seed=seed)
    found = {name: {int(index) % 10 for index in split.indices} for name, split in splits_of(dataset).items()}
    assert sorted(patient for some in found.values() for patient in some) == list(range(10)) and all(found.values())
    assert "10 groups of 3 images" in dataset.notes[0]


def test_folds_keep_groups_together():
    tested = [
        dataset_from_arrays(IMAGES, SICK, groups=PATIENTS, data={"folds": 5, "fold": fold}).test for fold in range(5)
    ]
    assert [len({index % 10 for index in split.indices}) for split in tested] == [2] * 5
    assert sorted(int(index) for split in tested for index in split.indices) == list(range(30))


def test_groups_of_files(patients):
    pairs, groups = patients
    dataset = dataset_from_files(iter(pairs), groups=groups, data={"test": 0.3, "validation": 0.3})
    group_of = {str(path): group for (path, _), group in zip(pairs, groups, strict=True)}
    found = [{group_of[name] for name in split.ids} for split in splits_of(dataset).values()]
    assert sum(map(len, found)) == len(set.union(*found)) == 10


def test_groups_of_given_splits_are_compared(patients):
    pairs, groups = patients
    parts = {"train": slice(0, 24), "test": slice(24, 30)}  # The group in the middle is in one of them only.
    given = {name: groups[part] for name, part in parts.items()}
    dataset = dataset_from_files(pairs[:24], test=pairs[24:], groups=given)
    assert not any("groups are in" in note for note in dataset.notes)
    given["test"] = [given["train"][0], *given["test"][1:]]
    dataset = dataset_from_files(pairs[:24], test=pairs[24:], groups=given)
    assert any(note.startswith("1 group is in the training and in the test split") for note in dataset.notes)
    dataset = dataset_from_arrays(
        IMAGES[:20],
        SICK[:20],
        test=(IMAGES[20:], SICK[20:]),
        data={"on_leak": "drop"},
        groups={"train": PATIENTS[:20], "test": [*PATIENTS[20:25], *"abcde"]},
    )
    assert {index % 10 for split in (dataset.train, dataset.val) for index in split.indices} == {5, 6, 7, 8, 9}


@pytest.mark.parametrize(
    "groups, more, message",
    [
        (PATIENTS[1:], {}, "There are 30 images and 29 groups of train"),
        ([None, *PATIENTS[1:]], {}, "The column groups gives no group for 1 of 30 images: all/0000000"),
        ([float("nan"), *PATIENTS[1:]], {}, "gives no group for 1 of 30 images"),
        (["a"] * 30, {}, "The column groups gives all 30 images the same group, 'a'"),
        (
            {"test": PATIENTS},
            {},
            r"`groups` has groups for 'test', but there are images for 'train'\. Give groups={'train': …}",
        ),
        (
            PATIENTS,
            {"test": (IMAGES[:4], SICK[:4])},
            "has groups for 'train', but there are images for 'test', 'train'",
        ),
        (
            None,
            {"data": {"group": "(.)"}},
            "Arrays have neither columns nor paths: give the group of each image as `groups`",
        ),
    ],
)
def test_groups_that_are_wrong(groups, more, message):
    with pytest.raises(DataError, match=message):
        dataset_from_arrays(IMAGES, SICK, groups=groups, **more)


def test_groups_are_given_in_one_way(patients):
    pairs, groups = patients
    with pytest.raises(DataError, match="Give `groups`, or `group` in `data`, but not both"):
        dataset_from_files(pairs, groups=groups, data={"group": "(.)"})
