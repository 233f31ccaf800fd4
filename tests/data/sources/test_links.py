"""Links in folders of images: into other classes, in circles, to elsewhere."""

import os

import pytest

from flax_augtl.data.errors import DataError
from flax_augtl.data.sources import patterns
from flax_augtl.data.sources.folder import list_folder


def paths(listing):
    return [path for split in sorted(listing.splits) for path in listing.splits[split][0]]


@pytest.mark.parametrize(
    "link, target, first, second, what",
    [
        ("ants/related", "../bees", "ants/related", "bees", "folder"),
        ("ants/deep/related", "../../bees", "ants/deep/related", "bees", "folder"),
        ("wasps", "bees", "bees", "wasps", "folder"),
        ("ants/x.png", "../bees/000.png", "ants/x.png", "bees/000.png", "file"),
    ],
)
def test_what_is_reached_in_two_classes_is_refused(make_folder, link, target, first, second, what):
    root = make_folder({"ants": 2, "bees": 3, "ants/deep": 1})
    (root / link).symlink_to(target)
    with pytest.raises(DataError) as error:
        list_folder(root)
    one, other = (path.split("/")[0] for path in (first, second))
    assert str(error.value) == (
        f"A {what} under {root} is in two classes, {one} and {other}: {first} and {second} lead "
        f"to the same {what}. An image has one class: remove one of the two links."
    )


def test_across_splits_too(make_folder):
    root = make_folder({"train/ants": 2, "train/bees": 2, "test/ants": 1, "test/bees": 1})
    (root / "test" / "ants" / "more").symlink_to("../../train/bees")
    with pytest.raises(
        DataError, match="two classes, bees and ants: train/bees and test/ants/more lead to the same folder"
    ):
        list_folder(root)


def test_a_hard_link_into_another_class_is_refused(make_folder):
    root = make_folder({"ants": 2, "bees": 3})
    os.link(root / "bees" / "001.png", root / "ants" / "b.png")
    with pytest.raises(DataError, match="ants and bees: ants/b.png and bees/001.png lead to the same file"):
        list_folder(root)


def test_links_outside_to_one_file_are_refused(make_folder):
    root = make_folder({"ants": 2, "bees": 3})
    pool = make_folder({".": 1}, root="pool")
    for name in ("ants", "bees"):
        (root / name / "p.png").symlink_to(pool / "000.png")
    with pytest.raises(DataError, match="ants/p.png and bees/p.png lead to the same file"):
        list_folder(root)


def test_links_within_a_class_are_followed_once(make_folder):
    root = make_folder({"ants": 2, "bees": 3, "ants/deep": 1})
    (root / "ants" / "again").symlink_to("deep")
    (root / "ants" / "z.png").symlink_to("000.png")  # A file may be there twice.
    assert paths(list_folder(root)) == [
        "ants/000.png",
        "ants/001.png",
        "ants/again/000.png",
        "ants/z.png",
        "bees/000.png",
        "bees/001.png",
        "bees/002.png",
    ]


def test_loops_are_dropped(make_folder, tmp_path):
    root = make_folder({"ants": 2, "bees": 3, "ants/deep": 1})
    make_folder({".": 4}, root="beside")
    for link, target in (
        ("ants/deep/up", ".."),
        ("ants/root", ".."),
        ("ants/above", str(tmp_path)),
        ("ants/all", "/"),
        ("ants/self", "self"),
        ("bees/self.png", "self.png"),
        ("bees/root", ".."),
    ):
        (root / link).symlink_to(target)
    assert paths(list_folder(root)) == [
        "ants/000.png",
        "ants/001.png",
        "ants/deep/000.png",
        "bees/000.png",
        "bees/001.png",
        "bees/002.png",
    ]
    assert len(patterns.find_images(str(root / "ants" / "deep"))) == 1
    assert len(patterns.find_images(f"{root}/**/*.png")) == 6


def test_links_that_lead_to_each_other_end(make_folder, tmp_path):
    root = make_folder({"ants": 1, "bees": 1})
    for i in range(12):
        (tmp_path / "web" / str(i)).mkdir(parents=True)
        for j in range(12):
            (tmp_path / "web" / str(i) / f"to{j}").symlink_to(tmp_path / "web" / str(j))
    (root / "ants" / "web").symlink_to(tmp_path / "web" / "0")
    assert len(paths(list_folder(root))) == 2


def test_classes_may_be_links_to_folders_that_are_not_used(make_folder):
    root = make_folder({"raw/a": 3, "raw/b": 2, "train": 0, "test/a": 1, "test/b": 1})
    for name in ("a", "b"):
        (root / "train" / name).symlink_to(root / "raw" / name)
    listing = list_folder(root)
    assert {split: len(found) for split, (found, _) in listing.splits.items()} == {"train": 5, "test": 2}


def test_one_folder_may_be_two_splits(make_folder):
    """Copies across splits are another matter, see config.data.on_leak."""
    root = make_folder({"train/a": 3, "train/b": 2})
    (root / "test").symlink_to("train")
    assert {split: len(found) for split, (found, _) in list_folder(root).splits.items()} == {"train": 5, "test": 5}


def test_a_link_that_leads_nowhere_is_left_to_the_reader(make_folder):
    root = make_folder({"a": 1, "b": 1})
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    (root / "a" / "gone").symlink_to("nowhere")
    assert "a/gone.png" in paths(list_folder(root)) and "a/gone" not in paths(list_folder(root))


def test_the_first_rules_reach_each_folder_once(make_folder):
    root = make_folder({"ants": 2, "bees": 3, "wasps": 1})
    (root / "ants" / "related").symlink_to("../bees")
    listing = list_folder(root, rules=1)
    assert listing.class_names == ("ants", "wasps") and len(paths(listing)) == 6
