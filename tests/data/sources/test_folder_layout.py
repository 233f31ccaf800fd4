"""Which folders are splits, classes and wrappers, as archives and tools lay them out."""

import pytest

from flax_augtl.data import load_dataset
from flax_augtl.data.errors import DataError
from flax_augtl.data.sources.folder import list_folder


def sizes(listing):
    return {split: len(paths) for split, (paths, _) in listing.splits.items()}


@pytest.mark.parametrize(
    "train, test",
    [
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train/train", "test/test"),
        ("train/train", "test"),
        ("archive/data/train", "archive/data/test"),
        ("train/images", "test/images"),
        ("Train_Images", "test-images"),
        ("trainset", "testset"),
        ("TrainData", "TestData"),
        ("train2017", "test2017"),
        ("trn", "tst"),
    ],
)
def test_wrappers_are_looked_through(make_folder, train, test):
    root = make_folder({f"{train}/a": 3, f"{train}/b": 2, f"{test}/a": 1, f"{test}/b": 1})
    listing = list_folder(root)
    assert listing.class_names == ("a", "b") and sizes(listing) == {"train": 5, "test": 2}
    assert listing.splits["train"][0][0] == f"{train}/a/000.png"
    looked = [note for note in listing.notes if "one folder with images only" in note]
    assert bool(looked) == (train.count("/") > 0)
    assert all(str(root) in note for note in looked)


def test_other_words_for_a_split_count_where_it_has_no_plainer_one(make_folder):
    root = make_folder({f"{split}/{name}": 2 for split in ("train", "dev", "test") for name in "ab"}, root="one")
    assert sizes(list_folder(root)) == {"train": 4, "val": 4, "test": 4}
    assert sizes(list_folder(root, rules=1)) == {"train": 4, "test": 4}
    root = make_folder(
        {f"{split}/{name}": 2 for split in ("train", "eval", "val", "test") for name in "ab"}, root="two"
    )
    listing = list_folder(root)
    assert [path for path in listing.splits["val"][0] if not path.startswith("val/")] == []
    assert f"These folders beside the splits of {root} are not used: eval." in listing.notes


def test_a_wrapper_around_class_folders(make_folder):
    root = make_folder({"flowers/flowers/a": 3, "flowers/flowers/b": 2})
    (root / "flowers" / "readme.txt").write_text("about")
    listing = list_folder(root)
    assert listing.class_names == ("a", "b") and sizes(listing) == {"all": 5}
    assert listing.notes[0] == (
        f"{root} has no images of its own and one folder with images only: the images are taken from "
        f"{root}/flowers/flowers."
    )


def test_annotations_beside_the_images_are_no_class(make_folder):
    root = make_folder({"images/a": 3, "images/b": 2, "annotations": 0})
    (root / "annotations" / "list.xml").write_text("<x/>")
    assert list_folder(root).class_names == ("a", "b")


@pytest.mark.parametrize(
    "folders, only", [({"cats": 3}, "cats"), ({"cats/young": 3, "dogs": 0, "cats/old": 1}, "cats")]
)
def test_one_class_is_no_wrapper(make_folder, folders, only):
    """A folder without any file may be a class that is still to be filled."""
    with pytest.raises(DataError, match=rf"has only one class, {only}\. "):
        list_folder(make_folder(folders))


def test_a_test_split_of_one_class_with_nested_images_is_no_wrapper(make_folder):
    root = make_folder({"train/a": 3, "train/b": 2, "test/a/2019": 1, "test/a/2020": 1})
    listing = list_folder(root)
    assert listing.class_names == ("a", "b") and listing.splits["test"][1].tolist() == [0, 0]


def test_classes_that_hold_their_own_splits(make_folder):
    root = make_folder({f"{name}/{split}": n for name in "ab" for split, n in (("train", 4), ("val", 1), ("test", 2))})
    listing = list_folder(root)
    assert listing.class_names == ("a", "b") and sizes(listing) == {"train": 8, "val": 2, "test": 4}
    assert listing.splits["val"][0] == ("a/val/000.png", "b/val/000.png")
    assert f"Each class folder of {root} holds its own splits: val, train, test." in listing.notes
    dataset = load_dataset({"root": root}, seed=0)
    assert all("/test/" in name for name in dataset.test.ids) and len(dataset.test) == 4


def test_classes_with_splits_may_be_wrapped_and_nested(make_folder):
    root = make_folder({"x/a/Train/1": 2, "x/a/test/2": 1, "x/b/Train": 2, "x/b/test": 1})
    assert sizes(list_folder(root)) == {"train": 4, "test": 2}


def test_some_classes_with_splits_are_told(make_folder):
    listing = list_folder(make_folder({"a/train": 2, "a/test": 1, "b": 2}))
    assert sizes(listing) == {"all": 5}
    assert any(
        "with names of splits, but not all classes do: a. All their images are taken together" in note
        for note in listing.notes
    )


def test_several_data_sets_side_by_side_are_no_classes(make_folder):
    root = make_folder({f"fold{i}/{split}/{name}": 1 for i in (1, 2) for split in ("train", "test") for name in "ab"})
    message = f"has fold1, fold2, each with splits that hold a, b. .* such as config.data.root={root}/fold1"
    with pytest.raises(DataError, match=message):
        list_folder(root)


@pytest.mark.parametrize("flat", ["test", "test/test", "test/unknown", "test/images"])
def test_an_unlabelled_test_folder_is_left_out_and_train_is_split(make_folder, flat):
    root = make_folder({"train/a": 10, "train/b": 10, flat: 7})
    dataset = load_dataset({"root": root}, seed=0)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (13, 3, 4)
    assert all(name.startswith("train/") for name in (*dataset.test.ids, *dataset.val.ids))
    assert dataset.notes[0] == (
        f"The 7 images of {root}/test lie in no class folder: without labels they can be predicted "
        f"(--mode=predict --images={root}/test), but not be used as the test split."
    )


def test_beside_an_unlabelled_test_folder_val_is_the_test_split(make_folder):
    root = make_folder({"train/a": 5, "train/b": 5, "val/a": 1, "val/b": 1, "test": 7})
    dataset = load_dataset({"root": root}, seed=0)
    assert set(dataset.test.ids) == {"val/a/000.png", "val/b/000.png"}


def test_an_unlabelled_validation_folder_is_left_out(make_folder):
    root = make_folder({"train/a": 5, "train/b": 5, "val/images": 4, "test/a": 1, "test/b": 1})
    dataset = load_dataset({"root": root}, seed=0)
    assert all(name.startswith("train/") for name in dataset.val.ids)


def test_what_is_to_be_predicted_lies_aside(make_folder):
    root = make_folder({"seg_train/seg_train/a": 3, "seg_train/seg_train/b": 3, "seg_pred/seg_pred": 5})
    listing = list_folder(root)
    assert listing.class_names == ("a", "b") and sizes(listing) == {"all": 6}
    assert f"These folders beside the splits of {root} are not used: seg_pred." in listing.notes


def test_a_flat_training_folder_says_what_to_do(make_folder):
    with pytest.raises(DataError, match="has test, train, whose images lie in no class folder. Put the training"):
        list_folder(make_folder({"train": 3, "test": 3}))
    with pytest.raises(
        DataError, match=r"The 3 images of .* lie in no class folder \(the first is train/train/000.png\)"
    ):
        list_folder(make_folder({"train/train": 3, "test/test": 3}, root="wrapped"))


def test_an_image_beside_the_classes_of_train_is_no_class(make_folder):
    listing = list_folder(make_folder({"train": 1, "train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1}))
    assert listing.class_names == ("a", "b")
    assert any("1 images" in note and "train/000.png" in note for note in listing.notes)


def test_classes_with_a_split_in_their_name_are_classes(make_folder):
    listing = list_folder(make_folder({"bullet_train/x": 2, "test_tube/x": 2, "car/x": 2}))
    assert listing.class_names == ("bullet_train", "car", "test_tube")


def test_two_sets_of_splits_are_refused(make_folder):
    folders = [f"{what}_{split}" for what in ("eye", "ear") for split in ("train", "test")]
    root = make_folder({f"{folder}/{name}": 1 for folder in folders for name in "ab"})
    with pytest.raises(DataError, match="more than one set of splits: ear_test, ear_train; eye_test, eye_train. Keep"):
        list_folder(root)


def test_the_first_rules_know_no_wrappers(make_folder):
    """A run that an earlier version began goes on with what it took for its classes."""
    root = make_folder({"seg_train/seg_train/a": 3, "seg_test/seg_test/a": 2, "@eaDir": 1})
    listing = list_folder(root, rules=1)
    assert listing.class_names == ("@eaDir", "seg_test", "seg_train") and sizes(listing) == {"all": 6}
