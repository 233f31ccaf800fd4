"""Files that are no part of the data, and images without an ending."""

import os
import pathlib
import shutil

import pytest

from flax_augtl.data.images import sniff
from flax_augtl.data.sources import folder_tree, patterns
from flax_augtl.data.sources.folder import list_folder
from flax_augtl.data.sources.litter import LITTER, is_litter
from tests.conftest import ROOT

FOLDERS = (
    "@eaDir",
    "#recycle",
    "#snapshot",
    "@Recycle",
    ".ipynb_checkpoints",
    "__MACOSX",
    "$RECYCLE.BIN",
    "lost+found",
    "System Volume Information",
    ".@__thumb",
    ".Trash-1000",
    ".stversions",
    ".dropbox.cache",
    "RECYCLER",
    "tmp.drivedownload",
    "_gsdata_",
    "iPod Photo Cache",
    "@SynoFinder-log",
    "__pycache__",
)
FILES = (
    "._000.png",
    "Thumbs.db",
    "desktop.ini",
    "Icon\r",
    ".DS_Store",
    "000.png@SynoEAStream",
    "000.png~",
    "a.png.crdownload",
    "a.png.part",
    "~syncthing~a.png.tmp",
    "000 (Ann's conflicted copy 2024-05-01).png",
    "000.png:Zone.Identifier",
    "000.sync-conflict-20240501-101500-ABCDEFG.png",
    ".000.png.icloud",
    ".sync_ab12.db",
)


@pytest.fixture
def littered(make_folder):
    """A root with litter at every level, most of which an image decoder could read."""
    root = make_folder({"train/a": 3, "train/b": 2, "test/a": 1, "test/b": 1})
    image = root / "train" / "a" / "000.png"
    for place in (root, root / "train", root / "train" / "a", root / "test" / "b"):
        for name in FOLDERS:
            (place / name / "a").mkdir(parents=True)
            shutil.copy(image, place / name / "a" / "SYNOPHOTO_THUMB_M.png")
            shutil.copy(image, place / name / "x.png")
        for name in FILES:
            if "conflict" not in name or (place / "000.png").exists():
                shutil.copy(image, place / name)
    return root


def test_litter_is_passed_over_at_every_level(littered):
    listing = list_folder(littered)
    assert listing.class_names == ("a", "b")
    assert {split: len(paths) for split, (paths, _) in listing.splits.items()} == {"train": 5, "test": 2}
    assert not listing.notes


def test_predict_passes_litter_over(littered):
    found = patterns.find_images(str(littered / "train"))
    assert [os.path.relpath(path, littered / "train") for path in found] == [
        "a/000.png",
        "a/001.png",
        "a/002.png",
        "b/000.png",
        "b/001.png",
    ]
    assert len(patterns.find_images(f"{littered}/train/a/*.png")) == 3
    assert len(patterns.find_images(f"{littered}/train/*/*.png")) == 5


def test_a_conflicted_copy_whose_original_is_gone_is_an_image(make_folder):
    root = make_folder({"a": 2, "b": 1})
    (root / "a" / "001.png").rename(root / "a" / "002 (conflicted copy 2024-05-01 101500).png")
    assert len(list_folder(root).splits["all"][0]) == 3


def test_ordinary_names_are_no_litter():
    for name in (
        "recycle",
        "Icon",
        "part",
        "tmp",
        "a.parted",
        "snapshot",
        "folder.jpg",
        "#1",
        "@home",
        "temporary",
        "eaDir",
    ):
        assert not is_litter(name)


def test_a_folder_that_is_asked_for_by_name_is_read(make_folder):
    root = make_folder({"@eaDir": 2})
    assert len(patterns.find_images(str(root / "@eaDir"))) == 2


def test_the_documentation_lists_all_litter():
    section = (ROOT / "docs" / "data.md").read_text().partition("## Folders")[2].partition("\n## ")[0].lower()
    shown = {"icon\r": "icon", "icon\uf00d": "icon", "found.[0-9][0-9][0-9]": "found.000"}
    missing = [name for names in LITTER.values() for name in names if f"`{shown.get(name, name)}`" not in section]
    assert not missing


def test_files_without_a_known_ending_are_images_by_their_content(make_folder):
    root = make_folder({"a": 3, "b": 2})
    (root / "a" / "000.png").rename(root / "a" / "n012345_6")
    (root / "a" / "001.png").rename(root / "a" / "photo.png?w=400")
    (root / "a" / "README").write_text("BM, P5 and II are texts here.")
    (root / "a" / "empty").write_bytes(b"")
    (root / "b" / "notes.txt").write_bytes((root / "b" / "000.png").read_bytes())
    os.mkfifo(root / "b" / "pipe")
    os.mkfifo(root / "b" / "pipe.png")
    listing = list_folder(root)
    assert set(listing.splits["all"][0]) == {"a/n012345_6", "a/photo.png?w=400", "a/002.png", "b/000.png", "b/001.png"}
    assert any(note.startswith("5 files") and "no images by their ending or content" in note for note in listing.notes)
    assert list_folder(root, rules=1).splits["all"][0] == ("a/002.png", "b/000.png", "b/001.png")
    assert {pathlib.Path(path).name for path in patterns.find_images(str(root / "a"))} == {
        "n012345_6",
        "photo.png?w=400",
        "002.png",
    }


def test_only_the_first_bytes_of_files_without_a_known_ending_are_read(make_folder, monkeypatch):
    root = make_folder({"a": 2, "b": 2})
    for name in ("README", "a.xml", "a.txt", "b.bin"):
        (root / name).write_bytes(bytes(10_000))
    read = []
    monkeypatch.setattr(sniff, "is_image_file", lambda path: read.append(os.path.basename(path)) or False)
    folder_tree.read_tree(root)
    assert read == ["README"]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "MPO"])
def test_the_beginnings_of_every_format(form, noise_image, tmp_path):
    noise_image(0).save(tmp_path / "x", form)
    assert sniff.is_image_file(str(tmp_path / "x"))
    big_endian = b"MM\0*"
    assert sniff.looks_like_image(big_endian) and sniff.looks_like_image(b"P6\n# made by hand\n4 4\n255\n")


@pytest.mark.parametrize(
    "text", [b"", b"BMW and others", b"P1 is a text", b"RIFF0000WAVE", b"\0\0\0\x18ftypmp42", b"II", b"Python"]
)
def test_what_begins_otherwise_is_none(text):
    assert not sniff.looks_like_image(text)
