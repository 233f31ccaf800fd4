import os

import numpy as np
import pytest

from flax_augtl.data import load_dataset
from flax_augtl.data.errors import DataError
from flax_augtl.data.sources.folder import list_folder


def ids(examples):
    return set(examples.ids)


def test_three_folders_are_three_splits(make_folder):
    root = make_folder({"train/b": 4, "train/a": 3, "val/a": 2, "val/b": 1, "test/a": 1, "test/b": 2})
    dataset = load_dataset({"root": root}, seed=0)
    assert dataset.class_names == ("a", "b")
    assert ids(dataset.train) == {f"train/{c}/{i:03d}.png" for c, n in (("a", 3), ("b", 4)) for i in range(n)}
    assert ids(dataset.val) == {"val/a/000.png", "val/a/001.png", "val/b/000.png"}
    assert ids(dataset.test) == {"test/a/000.png", "test/b/000.png", "test/b/001.png"}
    for split in (dataset.train, dataset.val, dataset.test):
        for label, path in zip(split.labels, split.ids, strict=True):
            assert path.split("/")[1] == dataset.class_names[label]


def test_with_train_and_val_only_val_is_the_test_split(make_folder):
    root = make_folder({"train/a": 10, "train/b": 10, "val/a": 2, "val/b": 3})
    dataset = load_dataset({"root": root, "validation": 0.2}, seed=0)
    assert all(path.startswith("val/") for path in dataset.test.ids) and len(dataset.test) == 5
    assert all(path.startswith("train/") for path in dataset.val.ids) and len(dataset.val) == 4
    assert len(dataset.train) == 16 and not ids(dataset.train) & ids(dataset.val)
    assert any("val is used as the test split" in note for note in dataset.notes)


def test_train_and_test_carve_validation_from_train(make_folder):
    root = make_folder({"train/a": 5, "train/b": 5, "test/a": 2, "test/b": 3})
    dataset = load_dataset({"root": root}, seed=0)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (8, 2, 5)


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_one_root_is_split_in_three(make_folder, prefix):
    root = make_folder({f"{prefix}a": 25, f"{prefix}b": 25})
    dataset = load_dataset({"root": root, "test": 0.2, "validation": 0.25}, seed=0)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (30, 10, 10)
    assert len(ids(dataset.train) | ids(dataset.val) | ids(dataset.test)) == 50
    assert (np.bincount(dataset.test.labels) == 5).all()


def test_shots_are_what_the_user_has_and_validation_comes_from_them(make_folder):
    root = make_folder({"train/a": 20, "train/b": 20, "test/a": 4, "test/b": 4})
    dataset = load_dataset({"root": root, "shots": 10, "validation": 0.2}, seed=0)
    assert (np.bincount(dataset.train.labels) == 8).all() and (np.bincount(dataset.val.labels) == 2).all()
    assert len(dataset.test) == 8


def test_a_class_called_train_is_a_class(make_folder):
    root = make_folder({"train": 5, "car": 5, "bus": 5})
    assert list_folder(root).class_names == ("bus", "car", "train")


def test_names_with_spaces_and_unicode_and_nested_folders(make_folder):
    root = make_folder({"Ærø færge": 5, "two words/deep/er": 4, "two words": 1, "猫": 5}, root="my images ü")
    listing = list_folder(root)
    assert listing.class_names == ("two words", "Ærø færge", "猫")
    paths, labels = listing.splits["all"]
    assert np.bincount(labels).tolist() == [5, 5, 5]
    assert "two words/deep/er/003.png" in paths


def test_litter_is_passed_over_and_other_files_are_told(make_folder):
    root = make_folder({"a": 2, "b": 2, "empty": 0, ".hidden": 1, "a/.thumbnails": 1})
    for name in (".DS_Store", "Thumbs.db", "a/.DS_Store", "b/Thumbs.db", "a/._000.jpg", "b/desktop.ini"):
        (root / name).write_bytes(b"x")
    (root / "readme.txt").write_text("about")
    listing = list_folder(root)
    assert listing.class_names == ("a", "b")
    assert len(listing.splits["all"][0]) == 4
    assert any("1 files" in note and "readme.txt" in note for note in listing.notes)
    assert any("empty" in note and "no image" in note for note in listing.notes)


def test_links_are_followed_once(make_folder):
    root = make_folder({"a": 2, "b": 1})
    elsewhere = make_folder({"c": 3}, root="elsewhere")
    os.symlink(elsewhere / "c", root / "c")
    os.symlink(root, root / "a" / "back")  # A circle.
    listing = list_folder(root)
    assert listing.class_names == ("a", "b", "c")


def test_the_seed_changes_the_split_and_the_fingerprint(make_folder):
    root = make_folder({"a": 20, "b": 20})
    first, again, other = (load_dataset({"root": root}, seed=seed) for seed in (0, 0, 1))
    assert first.split_ids() == again.split_ids() and first.fingerprint == again.fingerprint
    assert first.split_ids() != other.split_ids() and first.fingerprint != other.fingerprint


def test_a_moved_folder_is_the_same_data(make_folder, tmp_path):
    root = make_folder({"a": 20, "b": 20})
    first = load_dataset({"root": root}, seed=0)
    root.rename(tmp_path / "moved")
    moved = load_dataset({"root": tmp_path / "moved"}, seed=0)
    assert moved.split_ids() == first.split_ids()
    np.testing.assert_array_equal(moved.train.draw_ids, first.train.draw_ids)


@pytest.mark.parametrize(
    "root, message",
    [
        (None, "config.data.root is not set"),
        ("nowhere", "nowhere does not exist"),
        ("file.txt", "is a file, not a folder"),
        ("empty", "no images in .*empty. It is empty"),
        ("texts", "no images in .*other files, among them a/x.txt"),
        ("flat", "3 images of .*flat lie in no class folder"),
        ("one", "only one class, cats"),
    ],
)
def test_a_root_that_is_no_data_set_is_refused(make_folder, tmp_path, root, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "texts" / "a").mkdir(parents=True)
    (tmp_path / "texts" / "a" / "x.txt").write_text("x")
    make_folder({".": 3}, root="flat")
    make_folder({"train/cats": 3, "test/cats": 1}, root="one")
    with pytest.raises(DataError, match=message):
        load_dataset({"root": root and tmp_path / root}, seed=0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_was_not_trained_on_is_an_error(make_folder, split):
    root = make_folder(
        {"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1, f"{split}/zebra": 1}
    )
    with pytest.raises(DataError, match=f"in the {split} split only.*zebra"):
        load_dataset({"root": root}, seed=0)


def test_two_folders_for_one_split_are_refused(make_folder):
    root = make_folder({"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1})
    with pytest.raises(DataError, match="more than one folder for the val split: val, valid"):
        list_folder(root)


def test_sets_are_splits(make_folder):
    root = make_folder({"training_set/a": 5, "training_set/b": 5, "test_set/a": 2, "test_set/b": 3})
    dataset = load_dataset({"root": root}, seed=0)
    assert dataset.class_names == ("a", "b") and len(dataset.test) == 5


def test_splits_without_one_to_train_on_are_no_classes(make_folder):
    root = make_folder({"val/a": 5, "val/b": 5, "test/a": 2, "test/b": 3})
    with pytest.raises(DataError, match=r"has test, val and no folder train/: there is nothing to train on"):
        list_folder(root)


def test_classes_that_look_like_splits_are_noted(make_folder):
    root = make_folder({"fold1/a": 5, "fold1/b": 5, "fold2/a": 2, "fold2/b": 3})
    listing = list_folder(root)
    assert listing.class_names == ("fold1", "fold2")
    assert any("If those are the classes, call the folders above them train, val" in note for note in listing.notes)
    assert not any("above them" in note for note in list_folder(make_folder({"a/x": 2, "b/y": 2})).notes)
