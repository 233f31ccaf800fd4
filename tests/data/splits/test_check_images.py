"""How much of the images is read before the splits are made."""

import numpy as np
import pytest

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import DataError, load_dataset
from flax_augtl.data.sources.image_files import FileSource
from flax_augtl.data.splits import integrity
from flax_augtl.data.splits.check_images import check_images


@pytest.fixture
def folder(make_folder):
    return make_folder({"train/a": 10, "train/b": 10, "test/a": 2, "test/b": 2})


@pytest.fixture
def read(monkeypatch):
    """The paths that a scan reads."""
    paths = []
    encoded = FileSource.encoded
    monkeypatch.setattr(FileSource, "encoded", lambda self, i: paths.append(self.path(i)) or encoded(self, i))
    return paths


def test_no_image_is_opened_and_the_log_says_what_is_not_known(folder, read, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(FileSource, "state", None)  # Not even their times are looked up.
        dataset = load_dataset({"root": folder, "scan": 0.0, "scan_dir": ""}, seed=0)
    assert read == []
    said = dataset.notes[0]
    assert said.startswith(
        "0 of 24 images were scanned (config.data.scan=0). It is not known whether the others can be read, and copies "
        "of images were not looked for"
    )
    whole = load_dataset({"root": folder, "scan_dir": ""}, seed=0)
    assert (dataset.train.ids, dataset.val.ids, dataset.test.ids) == (whole.train.ids, whole.val.ids, whole.test.ids)


def test_a_share_is_drawn_at_random_and_its_bad_images_are_told(folder, read):
    every = load_dataset({"root": folder, "scan": 0.5, "scan_dir": ""}, seed=0)
    first = sorted(read)
    assert len(first) == 12 and "12 of 24 images were scanned (config.data.scan=0.5)" in every.notes[0]
    read.clear()
    load_dataset({"root": folder, "scan": 0.5, "scan_dir": ""}, seed=1)
    assert sorted(read) == first, "The same images for every seed."
    with open(first[5], "wb"):
        pass
    with pytest.raises(DataError, match=f"{first[5]} cannot be read: it is empty"):
        load_dataset({"root": folder, "scan": 0.5, "scan_dir": ""}, seed=0)
    dataset = load_dataset({"root": folder, "scan": 0.5, "scan_dir": "", "on_bad_image": "skip"}, seed=0)
    assert len(dataset.skipped) == 1
    assert sum(map(len, (dataset.train, dataset.val, dataset.test))) == 23


def test_the_results_of_a_share_are_kept_until_one_of_its_files_changes(folder, tmp_path, monkeypatch):
    data = DataConfig(root=str(folder), scan=0.5, scan_dir=str(tmp_path / "scans"))
    paths = tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png")))
    source = FileSource(str(folder), paths)
    assert check_images(source, data, np.arange(10)).bad == {}
    monkeypatch.setattr(integrity, "_look_at_all", None)
    assert check_images(source, data, np.arange(10)).bad == {}
    with pytest.raises(TypeError):
        check_images(source, data, np.arange(12))


@pytest.mark.parametrize("field", ["on_leak", "on_conflict", "near_copies"])
def test_what_needs_the_whole_scan_is_refused_without_it(folder, field):
    with pytest.raises(DataError) as error:
        load_dataset({"root": folder, "scan": 0.5, field: "drop"}, seed=0)
    assert str(error.value) == (
        f"config.data.{field}=drop needs the scan of all images, and config.data.scan=0.5 leaves some out. "
        f"Set config.data.scan=1, or leave config.data.{field} out."
    )
