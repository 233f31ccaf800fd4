"""One name in two Unicode forms, names that look alike, and names that are no text."""

import json
import os
import unicodedata

import numpy as np
import pytest

from flax_augtl.data import dataset_from_arrays, dataset_from_files, load_dataset
from flax_augtl.data.errors import DataError
from flax_augtl.data.sources import patterns, unicode_names
from flax_augtl.data.sources.folder import list_folder
from flax_augtl.runtime import paths

CAFE, MAC = "caf\u00e9", "cafe\u0301"
BYTES = os.fsdecode(b"caf\xe9")


def test_two_forms_of_a_name_are_one_class(make_folder):
    root = make_folder({f"train/{CAFE}": 2, f"train/{MAC}": 1, "train/bar": 3, f"test/{MAC}": 1, "test/bar": 1})
    listing = list_folder(root)
    assert listing.class_names == ("bar", CAFE)
    assert {split: np.bincount(labels).tolist() for split, (_, labels) in listing.splits.items()} == {
        "train": [3, 3], "test": [1, 1]}  # fmt: skip
    dataset = load_dataset({"root": root, "validation": 0}, seed=0)
    assert dataset.test.ids == ("test/bar/000.png", f"test/{CAFE}/000.png")
    assert len(dataset.train.source[0].size) == 2
    # Two files cannot have one id.
    assert {f"train/{CAFE}/000.png", f"train/{MAC}/000.png", f"train/{CAFE}/001.png"} < set(dataset.train.ids)


def test_the_form_on_the_disk_changes_neither_splits_nor_draws(make_folder):
    """Also where the order of the names is another: é comes after z, e with an accent before f."""
    names = ("cafz", CAFE, "cafa")
    one = make_folder(dict.fromkeys(names, 20), root="one")
    other = make_folder({unicodedata.normalize("NFD", name): 20 for name in names}, root="other")
    here, there = (load_dataset({"root": root}, seed=0) for root in (one, other))
    assert here.class_names == there.class_names == ("cafa", "cafz", CAFE)
    assert here.split_ids() == there.split_ids() and here.fingerprint == there.fingerprint
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(here, split).labels, getattr(there, split).labels)
    np.testing.assert_array_equal(here.train.draw_ids, there.train.draw_ids)


def test_names_that_look_alike_stay_apart_and_are_told(make_folder):
    listing = list_folder(make_folder({"cat": 1, "Cat": 1, "dog": 1, "dog ": 1, "cow": 1}))
    assert listing.class_names == ("Cat", "cat", "cow", "dog", "dog ")
    assert listing.notes == (
        "These classes differ only by case or spaces, and are kept apart: 'Cat' and 'cat'; 'dog' and 'dog '. If they "
        "are one, rename them.",
    )
    assert unicode_names.look_alikes(["a b", "ab", "a\u00a0B", "a\u200bb", "ac"]) == [
        ("a b", "ab", "a\u00a0B", "a\u200bb")
    ]


def test_a_class_that_another_split_spells_otherwise_is_explained(make_folder):
    root = make_folder({"train/Cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1})
    message = "in the test split only.*: cat. .* Only case or spaces tell these apart: 'Cat' and 'cat'"
    with pytest.raises(DataError, match=message):
        load_dataset({"root": root}, seed=0)


def test_a_root_and_an_image_are_found_in_the_other_form(make_folder, monkeypatch):
    root = make_folder({f"{MAC}/a": 2, f"{MAC}/b": 2})
    assert len(list_folder(root / CAFE).splits["all"][0]) == 4
    expected = [str(root / MAC / "a" / "000.png"), str(root / MAC / "a" / "001.png")]
    for images in (root / CAFE / "a", root / CAFE / "a" / "*.png", root / "caf\u00e9*" / "a" / "*"):
        assert patterns.find_images(str(images)) == expected
    monkeypatch.chdir(root)
    find = paths.Finder()
    assert find(f"{CAFE}/a/000.png") == f"{MAC}/a/000.png"
    assert find(f"{CAFE}/none.png") == f"{CAFE}/none.png" and find("") == ""


def test_a_name_that_is_no_utf_8_is_used_and_written_as_text(make_folder):
    root = make_folder({"a": 9, BYTES: 10})
    (root / "a" / "000.png").rename(root / "a" / f"{BYTES}.png")
    dataset = load_dataset({"root": root}, seed=0)
    assert dataset.class_names == ("a", r"caf\xe9")
    ids = [name for names in dataset.split_ids().values() for name in names]
    assert len(ids) == 19 and r"a/caf\xe9.png" in ids and r"caf\xe9/000.png" in ids
    json.dumps(dataset.split_ids(), ensure_ascii=False).encode()
    assert len(dataset.train.draw_ids) == len(dataset.train)
    assert [dataset.train.source[int(i)].mode for i in dataset.train.indices] == ["RGB"] * len(dataset.train)


def test_a_bad_image_of_such_a_name_is_named(make_folder):
    root = make_folder({"a": 2, "b": 3})
    (root / "a" / f"{BYTES}.png").write_bytes(b"")
    (root / f"{BYTES}.txt").write_bytes(b"")
    dataset = load_dataset({"root": root, "on_bad_image": "skip", "validation": 0}, seed=0)
    assert dataset.skipped == {r"a/caf\xe9.png": "it is empty (zero bytes)"}
    "".join(dataset.notes).encode()
    assert any(r"caf\xe9.txt" in note for note in dataset.notes)


def test_files_and_labels_that_python_gives(make_folder):
    root = make_folder({"a": 4, "b": 4})
    (root / "a" / "000.png").rename(root / "a" / f"{BYTES}.png")
    files = [(path, MAC if path.parent.name == "a" else "b") for path in sorted(root.glob("*/*"))]
    dataset = dataset_from_files(files[:-1] + [(files[-1][0], CAFE)], data={"validation": 0})
    assert dataset.class_names == ("b", CAFE)
    "".join((*dataset.train.ids, *dataset.test.ids)).encode()
    images = np.zeros((4, 8, 8, 3), np.uint8)
    dataset = dataset_from_arrays(images, [CAFE, MAC, "a", "A"], test=(images[:2], [MAC, "a"]), data={"validation": 0})
    assert dataset.class_names == ("A", "a", CAFE) and dataset.train.labels.tolist() == [2, 2, 1, 0]
    assert "differ only by case or spaces" in dataset.notes[0]
    with pytest.raises(DataError, match=f"Class names must differ; '{CAFE}' is given more than once"):
        dataset_from_arrays(images, [CAFE, MAC, "a", "A"], class_names=[CAFE, MAC, "a", "A"])


def test_the_spelling_of_a_run():
    spelled = unicode_names.spelling_of([MAC], [f"{MAC}/1.png"])
    assert spelled(CAFE) == spelled(MAC) == MAC and spelled("na\u00efve") == "nai\u0308ve"
    assert unicode_names.spelling_of([CAFE], [], None)(MAC) == CAFE
    both = unicode_names.spelling_of([CAFE, MAC], [])
    assert both(CAFE) == CAFE and both(MAC) == MAC
    assert unicode_names.spelling_of(["a"], [], None)(MAC) == MAC and unicode_names.spelling_of(["a"], [])(MAC) == CAFE


def test_the_files_of_lists_are_found_in_the_other_form(load_lists, tmp_path):
    for name in ("train", "class"):
        (tmp_path / f"{MAC}-{name}.txt").write_text(
            "a/000.png 0\nb/000.png 1\na/001.png 0" if name == "train" else "x\ny"
        )
    given = {"train_list": str(tmp_path / f"{CAFE}-train.txt"), "class_list": f"{CAFE}-class.txt", "test": 1}
    dataset = load_lists({"unused.txt": ""}, **given)
    assert dataset.class_names == ("x", "y")


def test_labels_of_lists_that_look_alike_are_told(load_lists):
    rows = "path,label\na/000.png,Cat\na/001.png,cat\nb/000.png,dog"
    dataset = load_lists({"train.csv": rows, "test.txt": "a/003.png cat"})
    assert dataset.class_names == ("Cat", "cat", "dog")
    assert (
        "These classes differ only by case or spaces, and are kept apart: 'Cat' and 'cat'. If they are one, rename "
        "them." in dataset.notes
    )
