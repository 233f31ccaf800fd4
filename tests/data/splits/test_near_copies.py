import csv
import shutil

import numpy as np
import pytest
from etils import epath
from PIL import Image, ImageOps

from flax_augtl.config import added_fields
from flax_augtl.data import DataError, dataset_from_arrays, dataset_from_files, load_dataset
from flax_augtl.data.load import examples_of
from flax_augtl.data.sources.image_files import FileSource
from flax_augtl.data.splits import near_copies as copies_module
from flax_augtl.data.splits import near_copies_table
from flax_augtl.data.splits.integrity import scan


def note_of(dataset, phrase):
    (note,) = [note for note in dataset.notes if phrase in note]
    return note


@pytest.fixture
def near(make_folder):
    """Of four test images two have near-copies in train (one of them two), and one has an exact copy."""
    root = make_folder({"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2}, suffix=".png")
    Image.open(root / "test/a/000.png").save(root / "train/a/encoded.jpg", quality=80)
    ImageOps.mirror(Image.open(root / "test/a/000.png")).save(root / "train/b/mirrored.png")
    Image.open(root / "test/b/000.png").save(root / "train/b/encoded.jpg", quality=90)
    shutil.copy(root / "test/b/001.png", root / "train/b/same.png")
    return root


def test_near_copies_are_counted_apart_from_exact_ones(near):
    dataset = load_dataset({"root": near, "validation": 0}, seed=0)
    assert note_of(dataset, "are in the training data too").startswith("1 of 4 test images")
    note = note_of(dataset, "Near-copies of")
    assert note.startswith(
        "Near-copies of 2 of 4 test images are in the training data (re-encoded, resized, mirrored or slightly "
        "changed): "
    )
    assert "train/a/encoded.jpg ~ test/a/000.png (distance " in note and "same.png" not in note
    assert note.endswith("Test accuracy may be too high because of them; near_copies.csv lists all pairs, and "
                         "config.data.near_copies=drop takes them out of training (3).")  # fmt: skip
    assert {(copy.image, copy.copy, copy.mirrored) for copy in dataset.near_copies if copy.copy.startswith("test")} == {
        ("train/a/encoded.jpg", "test/a/000.png", False), ("train/b/mirrored.png", "test/a/000.png", True),
        ("train/b/encoded.jpg", "test/b/000.png", False)}  # fmt: skip


def test_near_copies_are_dropped_from_training(near):
    dataset = load_dataset({"root": near, "validation": 0, "near_copies": "drop"}, seed=0)
    assert len(dataset.train) == 9 and len(dataset.test) == 4 and "train/b/same.png" in dataset.train.ids
    assert note_of(dataset, "Near-copies of").endswith("Dropped from training: 3.")
    assert len(dataset.near_copies) == 3


def test_near_copies_can_be_an_error_or_no_matter(near):
    with pytest.raises(DataError, match="Near-copies of 2 of 4 test images .*near_copies to drop"):
        load_dataset({"root": near, "near_copies": "error"}, seed=0)
    dataset = load_dataset({"root": near, "validation": 0, "near_copies": "ignore"}, seed=0)
    assert not dataset.near_copies and not any("ear-cop" in note for note in dataset.notes)
    with pytest.raises(ValueError, match="near_copies='drop it' is not one of warn, drop, error, ignore"):
        load_dataset({"root": near, "near_copies": "drop it"}, seed=0)


def test_on_leak_does_not_act_on_near_copies(near):
    dataset = load_dataset({"root": near, "validation": 0, "on_leak": "drop"}, seed=0)
    assert len(dataset.train) == 11 and {"train/a/encoded.jpg", "train/b/mirrored.png"} < set(dataset.train.ids)


def test_near_copies_leave_the_validation_split_too(near):
    shutil.copytree(near / "train", near / "val")
    dataset = load_dataset({"root": near, "near_copies": "drop"}, seed=0)
    assert len(dataset.val) == 9 and note_of(dataset, "test images are in the validation data (")


def test_near_copies_with_another_label_are_told_and_stay(near):
    shutil.copy(near / "test/a/000.png", near / "train/a/source.png")
    shutil.rmtree(near / "test/a")
    shutil.copytree(near / "train/a", near / "test/a", ignore=lambda *_: ["source.png", "encoded.jpg"])
    dataset = load_dataset({"root": near, "validation": 0.25, "near_copies": "drop"}, seed=0)
    note = note_of(dataset, "near-copy with a different label")
    assert note.startswith("3 training images have a near-copy with a different label: ")
    assert {"train/a/source.png", "train/b/mirrored.png"} <= {*dataset.train.ids, *dataset.val.ids}
    pairs = {(copy.image, copy.copy) for copy in dataset.near_copies if copy.label != copy.copy_label}
    assert pairs == {("train/a/source.png", "train/b/mirrored.png"), ("train/a/encoded.jpg", "train/b/mirrored.png")}


def test_files_given_in_python_are_compared(near):
    files = [(path, path.parent.name) for path in sorted((near / "train").rglob("*.*"))]
    test = [(path, path.parent.name) for path in sorted((near / "test").rglob("*.*"))]
    dataset = dataset_from_files(files, test=test, data={"near_copies": "drop", "validation": 0})
    assert len(dataset.train) == 9


def test_the_list_in_the_run_directory(near, tmp_path):
    dataset = load_dataset({"root": near, "validation": 4}, seed=0)
    near_copies_table.write_near_copies(epath.Path(tmp_path), dataset)
    with open(tmp_path / "near_copies.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "split", "label", "copy_path", "copy_split", "copy_label", "distance", "mirrored"]
    distances = [int(row[6]) for row in rows]
    assert distances == sorted(distances) and len(rows) == len(dataset.near_copies)
    (row,) = [row for row in rows if row[0] == "train/b/mirrored.png" and row[4] == "test"]
    split = "val" if "train/b/mirrored.png" in dataset.val.ids else "train"
    assert row[:6] == ["train/b/mirrored.png", split, "b", "test/a/000.png", "test", "a"] and row[7] == "true"
    dropped = load_dataset({"root": near, "validation": 0, "near_copies": "drop"}, seed=0)
    near_copies_table.write_near_copies(epath.Path(tmp_path), dropped)
    assert {line.split(",")[1] for line in (tmp_path / "near_copies.csv").read_text().splitlines()[1:]} == {""}


def test_no_copies_no_list(make_folder, tmp_path):
    dataset = load_dataset({"root": make_folder({"a": 6, "b": 6}), "near_copies": "error"}, seed=0)
    near_copies_table.write_near_copies(epath.Path(tmp_path), dataset)
    assert not (tmp_path / "near_copies.csv").exists()


def test_the_search_is_remembered(near, tmp_path, monkeypatch):
    monkeypatch.setattr(copies_module, "_REMEMBER_FROM", 5)
    settings = {"root": near, "scan_dir": tmp_path / "scans"}
    before = load_dataset(settings, seed=0)
    monkeypatch.setattr("flax_augtl.data.splits.image_hash.search", None)
    assert load_dataset(settings, seed=0).near_copies == before.near_copies != ()
    (file,) = (tmp_path / "scans").glob("near-*.npz")
    monkeypatch.undo()
    monkeypatch.setattr(copies_module, "_REMEMBER_FROM", 5)
    file.write_bytes(file.read_bytes()[:100])
    assert load_dataset(settings, seed=0).near_copies == before.near_copies


@pytest.fixture
def contradictory(make_folder):
    """Training images that are equal under two labels: in bytes (three of them), in pixels, and of one colour."""
    root = make_folder({"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 2})
    shutil.copy(root / "train/a/000.png", root / "train/b/same.png")
    shutil.copy(root / "train/a/000.png", root / "train/a/again.png")
    Image.open(root / "train/a/001.png").save(root / "train/b/format.bmp")
    Image.new("RGB", (20, 20), "red").save(root / "train/a/red.png")
    Image.new("RGB", (20, 20), "red").save(root / "train/b/red.bmp")
    Image.new("RGB", (20, 20), "blue").save(root / "train/b/blue.png")
    return root


CONTRADICTORY = {f"train/{name}" for name in ("a/000.png", "a/again.png", "b/same.png", "a/001.png", "b/format.bmp",
                                              "a/red.png", "b/red.bmp")}  # fmt: skip


def test_equal_images_with_different_labels_are_told(contradictory):
    dataset = load_dataset({"root": contradictory, "validation": 0}, seed=0)
    note = note_of(dataset, "different label")
    assert note.startswith("7 training images are equal to another one with a different label: ")
    assert "train/a/000.png (a) = train/b/same.png (b) (bytes)" in note
    assert "train/a/001.png (a) = train/b/format.bmp (b) (pixels)" in note
    assert "train/a/red.png (a) = train/b/red.bmp (b) (pixels)" in note
    assert note.endswith("Correct the labels; config.data.on_conflict=drop takes all of them out of training.")
    assert len(dataset.train) == 18 and not dataset.near_copies


@pytest.mark.parametrize("settings", [{"on_leak": "drop"}, {"on_conflict": "drop"}], ids=str)
def test_dropping_takes_all_of_them(contradictory, settings):
    dataset = load_dataset({"root": contradictory, "validation": 0, **settings}, seed=0)
    assert len(dataset.train) == 11 and not CONTRADICTORY & set(dataset.train.ids)
    assert note_of(dataset, "different label").endswith("All of them were dropped.")


def test_they_can_be_an_error_or_no_matter(contradictory):
    for settings in ({"on_leak": "error"}, {"on_conflict": "error"}):
        with pytest.raises(DataError, match="7 training images are equal .*config.data.on_conflict to drop"):
            load_dataset({"root": contradictory, **settings}, seed=0)
    for settings in ({"on_conflict": "ignore"}, {"on_leak": "error", "on_conflict": "ignore"}):
        dataset = load_dataset({"root": contradictory, "validation": 0, **settings, "near_copies": "ignore"}, seed=0)
        assert len(dataset.train) == 18 and not any("different label" in note for note in dataset.notes)
    with pytest.raises(ValueError, match="on_conflict='keep' is not one of warn, drop, error, ignore"):
        load_dataset({"root": contradictory, "on_conflict": "keep"}, seed=0)


def test_equal_rows_of_a_list_with_different_labels(make_folder, tmp_path):
    root = make_folder({"all": 12})
    shutil.copy(root / "all/000.png", root / "all/copy.png")
    rows = [f"{i:03d}.png,{'ab'[i % 2]}" for i in range(12)] + ["copy.png,b"]
    (tmp_path / "train.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    data = {"name": "list", "root": root / "all", "train_list": tmp_path / "train.csv", "test": 0.3, "validation": 0}
    # Whichever of the two is in the test split is a leak, not a contradiction within training.
    told = [note for seed in range(12) for note in load_dataset(data, seed=seed).notes]
    assert any(note.startswith("2 training images are equal to another one with a different label: ") for note in told)


def test_equal_arrays_with_different_labels():
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    images[7] = images[2]
    labels = np.arange(20) % 2
    test = images[10:].copy() // 2, labels[10:]
    with pytest.raises(DataError, match=r"2 training images .*train/0000002 \(0\) = train/0000007 \(1\) \(bytes\)"):
        dataset_from_arrays(images, labels, test=test, data={"on_leak": "error"})
    dataset = dataset_from_arrays(images, labels, test=test, data={"on_leak": "drop", "validation": 0})
    assert len(dataset.train) == 18


def test_images_of_two_sources_are_compared(near):
    """Each split of a TFDS dataset is a source of its own."""
    parts, seen = {}, {}
    for split in ("train", "test"):
        paths = tuple(sorted(str(path.relative_to(near)) for path in (near / split).rglob("*.*")))
        source = FileSource(str(near), paths)
        seen[source] = scan(source, remember_in="")
        parts[split] = examples_of(source, np.zeros(len(paths)), paths)
    found = copies_module.ByScan(seen).near(parts["train"].take(range(2, 12)), parts["test"])
    ids = {(parts["train"].ids[2 + i], parts["test"].ids[j])
           for i, j in zip(found.left.tolist(), found.right.tolist(), strict=True)}  # fmt: skip
    assert ids == {("train/a/encoded.jpg", "test/a/000.png"), ("train/b/mirrored.png", "test/a/000.png"),
                   ("train/b/encoded.jpg", "test/b/000.png"), ("train/b/same.png", "test/b/001.png")}  # fmt: skip


def test_a_run_of_an_earlier_version_goes_on_without(contradictory):
    old = added_fields.filled({"data": {"on_leak": "error"}})["data"]
    dataset = load_dataset({"root": contradictory, "validation": 0, **old}, seed=0)
    assert len(dataset.train) == 18 and not dataset.near_copies
    dataset = load_dataset({"root": contradictory, "validation": 0, **old, "on_leak": "drop"}, seed=0)
    assert len(dataset.train) == 18 and not any("different label" in note for note in dataset.notes)
