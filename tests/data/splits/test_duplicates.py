import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_augtl.data import DataError, dataset_from_arrays, load_dataset
from flax_augtl.data.splits.duplicates import _LOOKS_ALIKE, _near


@pytest.fixture
def leaky(make_folder, noise_image):
    """One test image is in train as the same file, one as another format, one is only nearly the same."""
    root = make_folder({"train/a": 6, "train/b": 6, "test/a": 3, "test/b": 3})
    shutil.copy(root / "test/a/000.png", root / "train/a/copy.png")
    noise_image(900, (300, 280)).save(root / "train/b/photo.jpg", quality=90)
    Image.open(root / "train/b/photo.jpg").save(root / "test/b/photo.png")
    near = np.asarray(Image.open(root / "test/a/001.png")).copy()
    near[0, 0] ^= 1
    Image.fromarray(near).save(root / "train/a/near.png")
    return root


def test_copies_are_counted_and_told(leaky):
    dataset = load_dataset({"root": leaky, "validation": 0}, seed=0)
    (note,) = [note for note in dataset.notes if "test images are in the training data too" in note]
    assert note.startswith("2 of 7 test images")
    assert "train/a/copy.png = test/a/000.png (bytes)" in note
    assert "train/b/photo.jpg = test/b/photo.png (pixels)" in note
    assert "near.png" not in note and len(dataset.train) == 15


def test_copies_are_dropped_from_training_and_never_from_test(leaky):
    dataset = load_dataset({"root": leaky, "validation": 0, "on_leak": "drop"}, seed=0)
    assert len(dataset.test) == 7 and len(dataset.train) == 13
    assert not {"train/a/copy.png", "train/b/photo.jpg"} & set(dataset.train.ids)
    assert "train/a/near.png" in dataset.train.ids


def test_copies_can_be_an_error(leaky):
    with pytest.raises(DataError, match="2 of 7 test images.*on_leak to drop"):
        load_dataset({"root": leaky, "on_leak": "error"}, seed=0)
    with pytest.raises(ValueError, match="on_leak='ignore' is not one of warn, drop, error"):
        load_dataset({"root": leaky, "on_leak": "ignore"}, seed=0)


def test_a_root_that_is_split_here_is_checked_too(make_folder):
    root = make_folder({"a": 20, "b": 20})
    for i in range(20):
        shutil.copy(root / f"a/{i:03d}.png", root / f"a/{i:03d} copy.png")
    dataset = load_dataset({"root": root, "on_leak": "drop", "test": 0.25, "validation": 0}, seed=0)
    files = {i: dataset.train.source.path(int(i)) for e in (dataset.train, dataset.test) for i in e.indices}
    train = {Path(files[i]).read_bytes() for i in dataset.train.indices}
    assert not any(Path(files[i]).read_bytes() in train for i in dataset.test.indices)


def test_no_copies_no_word(make_folder):
    assert not load_dataset({"root": make_folder({"a": 5, "b": 5}), "validation": 0, "on_leak": "error"},
                            seed=0).notes[1:]  # fmt: skip


def test_copies_in_arrays():
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    test = images[:3].copy(), np.array([0, 1, 0])
    dataset = dataset_from_arrays(images, np.arange(20) % 2, test=test, data={"on_leak": "drop", "validation": 0})
    assert len(dataset.train) == 17 and len(dataset.test) == 3


def test_the_search_finds_all_that_are_near_and_no_others():
    rng = np.random.default_rng(0)
    ours = rng.integers(0, 256, (200, 6), dtype=np.uint8)
    theirs = np.clip(ours[:100].astype(int) + rng.integers(-8, 9, (100, 6)), 0, 255).astype(np.uint8)
    expected = {
        (i, j) for i in range(200) for j in range(100)
        if np.abs(ours[i].astype(int) - theirs[j]).max() <= _LOOKS_ALIKE
    }  # fmt: skip
    assert set(_near(ours, theirs)) == expected and 10 < len(expected) < 100
