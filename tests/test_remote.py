"""Workdir, data and weights in a bucket, by a backend of epath that stands for Google Cloud Storage.

Checkpoints are the exception: Orbax goes to a bucket through TensorStore's own driver, which cannot be tried here.
"""

import os
import shutil

import numpy as np
import pytest
from etils import epath
from etils.epath import backend, gpath
from PIL import Image

import flax_augtl
from flax_augtl import prediction, run_directory
from flax_augtl.data import load_dataset
from flax_augtl.export import export
from flax_augtl.pretrained.located import EMBEDDED
from tests import small


class Bucket(backend._OsPathBackend):
    """gs://… is a folder of this machine; like a bucket, it appends to nothing."""

    def __init__(self, root):
        self._root = root

    def _here(self, path):
        path = os.fspath(path)
        return os.path.join(self._root, path.removeprefix("gs://")) if path.startswith("gs://") else path

    def open(self, path, mode):
        assert "a" not in mode
        return super().open(self._here(path), mode)

    def walk(self, top, **arguments):
        for here, folders, names in os.walk(self._here(top)):
            yield f"gs://{os.path.relpath(here, self._root)}", folders, names

    def glob(self, path):
        return [f"gs://{os.path.relpath(found, self._root)}" for found in super().glob(self._here(path))]


def _redirected(name, paths):
    inner = getattr(backend._OsPathBackend, name)

    def method(self, *arguments, **settings):
        return inner(self, *(self._here(path) for path in arguments[:paths]), *arguments[paths:], **settings)

    return method


for _name, _paths in (("exists", 1), ("isdir", 1), ("listdir", 1), ("makedirs", 1), ("mkdir", 1), ("rmtree", 1),
                      ("remove", 1), ("rename", 2), ("replace", 2), ("copy", 2), ("stat", 1)):
    setattr(Bucket, _name, _redirected(_name, _paths))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder that gs:// stands for."""
    root = tmp_path / "buckets"
    (root / "b").mkdir(parents=True)
    store = Bucket(str(root))
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", store)
    monkeypatch.setattr(gpath, "_GCS_BACKENDS", frozenset({store}))
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.chdir(tmp_path)
    yield root / "b"
    assert not any("gs:" in path.name for path in tmp_path.rglob("*")), "gs:// was taken for a folder of this machine"


def photos(folder, count=8):
    rng = np.random.default_rng(0)
    for name in ("bee", "ant"):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / name / f"{index}.png")


def test_a_folder_and_lists_in_a_bucket_are_those_on_the_disk(bucket):
    photos(bucket / "photos")
    (bucket / "photos" / ".hidden").mkdir()
    (bucket / "photos" / ".hidden" / "x.png").write_bytes(b"")
    (bucket / "photos" / "train.txt").write_text("\ufeff" + "".join(f"{name}/{i}.png {name}\n" for i in range(8)
                                                                   for name in ("ant", "bee")), encoding="utf-8")
    for data in ({"name": "folder"}, {"name": "list", "train_list": "train.txt"}):
        there, here = (load_dataset({**data, "root": root, "scan_dir": ""}, seed=0)
                       for root in ("gs://b/photos", str(bucket / "photos")))
        assert there.split_ids() == here.split_ids() and len(there.train.ids) > 5
        for index in there.train.indices:
            np.testing.assert_array_equal(there.train.source[int(index)], here.train.source[int(index)])
    (bucket / "photos" / "ant" / "bad.png").write_bytes(b"")
    with pytest.raises(ValueError, match="gs://b/photos/ant/bad.png.*it is empty"):
        load_dataset({"name": "folder", "root": "gs://b/photos", "scan_dir": ""}, seed=0)
    with pytest.raises(ValueError, match="The data root gs://b/nowhere does not exist"):
        load_dataset({"name": "folder", "root": "gs://b/nowhere"}, seed=0)


def test_a_run_in_a_bucket_has_the_files_of_one_on_the_disk(bucket, tmp_path, monkeypatch):
    photos(bucket / "photos")
    shutil.copy(EMBEDDED["embedded:glyphs"], bucket / "weights.safetensors")
    # Joined to the workdir, an absolute path wins.
    monkeypatch.setattr(run_directory, "CHECKPOINTS", str(tmp_path / "checkpoints"))
    config = small.digits_config(weights="gs://b/weights.safetensors", freeze="all", steps=2, data={
        "name": "folder", "root": "gs://b/photos", "validation": 0.25, "crop": "none", "scan_dir": ""})
    run = flax_augtl.train(config, "gs://b/run", quiet=True)
    assert {path.name for path in (bucket / "run").iterdir()} == {
        "config.json", "class_names.json", "preprocessing.json", "source.json", "splits.json", "metrics.jsonl",
        "result.json", "tensorboard", "confusion_test.png", "classes_test.json"}
    assert [row["split"] for row in run_directory.read_metrics("gs://b/run")] == ["train", "train", "val", "test"]
    assert next((bucket / "run" / "tensorboard").iterdir()).stat().st_size > 500
    again = flax_augtl.load_run("gs://b/run")
    assert again.result == run.result and flax_augtl.train(config, "gs://b/run", quiet=True).result == run.result
    assert [str(path) for path in export(again)] == ["gs://b/run/export.safetensors", "gs://b/run/export.json"]
    assert flax_augtl.load_source("resnet20", "gs://b/run/export.safetensors").model.num_classes
    with pytest.raises(ValueError, match="no checkpoint at gs://b/nothing.safetensors"):
        flax_augtl.load_source("resnet20", "gs://b/nothing.safetensors")
    rows, _ = prediction.predict_files(again, "gs://b/photos/ant/*.png")
    assert [row["path"] for row in rows] == [f"gs://b/photos/ant/{index}.png" for index in range(8)]
    assert len(prediction.find_pictures("gs://b/photos")) == 16
    assert epath.Path("gs://b/run/result.json").exists()
