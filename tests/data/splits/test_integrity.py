import os
import time

import numpy as np
import pytest

from flax_augtl.data import DataError, load_dataset
from flax_augtl.data.sources.image_files import FileSource
from flax_augtl.data.splits.integrity import scan
from flax_augtl.runtime.paths import cache_folder


@pytest.fixture
def messy(make_folder):
    """20 sound images in two classes, and four bad ones among the training images."""
    root = make_folder({"train/a": 8, "train/b": 8, "test/a": 2, "test/b": 2}, suffix=".jpg")
    sound = (root / "train/a/000.jpg").read_bytes()
    (root / "train/a/half.jpg").write_bytes(sound[: len(sound) // 2])
    (root / "train/a/none.jpg").write_bytes(b"")
    (root / "train/b/text.jpg").write_text("this is a text")
    os.symlink(root / "gone.jpg", root / "train/b/link.jpg")
    return root


BAD = {"train/a/half.jpg", "train/a/none.jpg", "train/b/text.jpg", "train/b/link.jpg"}


def test_bad_images_are_errors_that_name_them(messy):
    with pytest.raises(DataError) as error:
        load_dataset({"root": messy}, seed=0)
    message = str(error.value)
    assert f"{messy}/train/a/half.jpg cannot be read: it is damaged" in message
    assert "There are 3 more" in message and "on_bad_image=skip" in message
    for path in BAD:
        assert path in message


def test_one_bad_image_is_named_alone(messy):
    for path in BAD - {"train/b/text.jpg"}:
        (messy / path).unlink()
    with pytest.raises(DataError, match=r"train/b/text.jpg cannot be read: its content is not an image.*skip\.$"):
        load_dataset({"root": messy}, seed=0)


def test_skipping_counts_lists_and_leaves_them_out(messy):
    dataset = load_dataset({"root": messy, "on_bad_image": "skip", "validation": 0.25}, seed=0)
    assert set(dataset.skipped) == BAD
    assert dataset.skipped["train/a/none.jpg"] == "it is empty (zero bytes)"
    assert (len(dataset.train), len(dataset.val)) == (12, 4)
    assert not BAD & set(dataset.train.ids + dataset.val.ids)
    (note,) = [note for note in dataset.notes if "cannot be read" in note]
    assert "4 of 24 images" in note and all(path in note for path in BAD)


def test_only_ten_are_listed(make_folder):
    root = make_folder({"a": 3, "b": 3})
    for i in range(25):
        (root / "a" / f"bad{i:02d}.png").write_bytes(b"")
    dataset = load_dataset({"root": root, "on_bad_image": "skip", "validation": 0}, seed=0)
    (note,) = [note for note in dataset.notes if "cannot be read" in note]
    assert note.count("bad") == 10 and "and 15 more" in note and len(dataset.skipped) == 25


def test_a_class_of_bad_images_only_is_an_error(messy):
    for path in sorted((messy / "train/a").iterdir()):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="has 1 classes"):
        load_dataset({"root": messy, "on_bad_image": "skip"}, seed=0)


def test_skipping_does_not_move_the_rest_between_splits(make_folder):
    """Ids, not positions, key the draws; and one image less in a class changes no other class's choice."""
    root = make_folder({"a": 20, "b": 20})
    before = load_dataset({"root": root, "validation": 0.2}, seed=0)
    (root / "a" / "bad.png").write_bytes(b"")
    after = load_dataset({"root": root, "validation": 0.2, "on_bad_image": "skip"}, seed=0)
    assert before.split_ids() == after.split_ids()


def test_an_unknown_setting_is_refused(messy):
    with pytest.raises(ValueError, match="on_bad_image='ignore' is not one of error, skip"):
        load_dataset({"root": messy, "on_bad_image": "ignore"}, seed=0)


def test_what_was_seen_is_remembered_until_a_file_changes(make_folder, monkeypatch):
    root = make_folder({"a": 3, "b": 3})
    source = FileSource(str(root), tuple(f"{c}/{i:03d}.png" for c in "ab" for i in range(3)))
    first = scan(source)
    looked = []
    monkeypatch.setattr("flax_augtl.data.splits.integrity.read_image", lambda *a, **k: looked.append(1))
    again = scan(source)
    assert not looked and again.bad == first.bad
    for name in ("digests", "sizes", "looks"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    monkeypatch.undo()
    (root / "a/001.png").write_bytes(b"now it is broken")
    os.utime(root / "a/001.png", ns=(time.time_ns(), time.time_ns() + 10**9))
    with pytest.raises(DataError, match="a/001.png"):
        scan(source)


def test_damaged_memory_is_not_believed(make_folder, tmp_path):
    source = FileSource(str(make_folder({"a": 2})), ("a/000.png", "a/001.png"))
    expected = scan(source, remember_in=tmp_path / "memory")
    (file,) = (tmp_path / "memory").iterdir()
    for content in (b"", b"PK\x03\x04 not really", file.read_bytes()[:100]):
        file.write_bytes(content)
        np.testing.assert_array_equal(scan(source, remember_in=tmp_path / "memory").digests, expected.digests)


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "flax_augtl"


def test_an_image_that_goes_bad_after_the_scan_is_an_error(make_folder, preprocessing, data):
    from flax_augtl.data import train_batches

    dataset = load_dataset({"root": make_folder({"a": 5, "b": 5}), "validation": 0}, seed=0)
    victim = dataset.train.source.path(int(dataset.train.indices[0]))
    with open(victim, "wb") as file:
        file.write(b"gone")
    batches = train_batches(dataset.train, preprocessing(), data(), batch_size=8, image_size=24, seed=0, steps=1)
    with pytest.raises(DataError, match=os.path.basename(victim)):
        list(batches)
