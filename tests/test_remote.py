"""Workdir, data and weights in a bucket: gcsfs, and TensorStore's driver below Orbax, against a server on this machine."""

import importlib.util
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

import flax_augtl
from flax_augtl import predict
from flax_augtl.data import load_dataset
from flax_augtl.data.images import sniff
from flax_augtl.data.sources import patterns
from flax_augtl.data.sources.folder import list_folder
from flax_augtl.export import export
from flax_augtl.pretrained.locate import EMBEDDED
from flax_augtl.runtime import signals
from flax_augtl.training.checkpoints import CheckpointError, open_checkpoints
from flax_augtl.workdir import files
from tests import small
from tests.bucket import Server

# Not imported here: it looks at its environment when it is.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("gcsfs") is None, reason="needs gcsfs, of the extra `gcs`"),
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]


@pytest.fixture(scope="module")
def server():
    """What gs:// stands for; both clients keep to the first one for as long as the process lives."""
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "any")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    """The bucket, empty."""
    monkeypatch.chdir(tmp_path)
    for path in epath.Path("gs://bucket").iterdir():
        path.rmtree() if path.is_dir() else path.unlink()
    yield epath.Path("gs://bucket")
    assert not any("gs:" in path.name for path in tmp_path.rglob("*")), "gs:// was taken for a folder of this machine"


def photos(here, there, count=8):
    """The same images on the disk and in the bucket."""
    rng = np.random.default_rng(0)
    for name in ("bee", "ant"):
        (here / name).mkdir(parents=True)
        for index in range(count):
            path = here / name / f"{index}.png"
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
            (there / name / f"{index}.png").write_bytes(path.read_bytes())


def config(**changes):
    return small.digits_config(**{"weights": "embedded:glyphs", "freeze": "all", **changes})


def test_a_folder_and_lists_in_a_bucket_are_those_on_the_disk(bucket, tmp_path):
    photos(tmp_path / "photos", bucket / "photos")
    text = "".join(f"{name}/{i}.png {name}\n" for i in range(8) for name in ("ant", "bee"))
    for root in (tmp_path, bucket):
        (epath.Path(root) / "photos" / "train.txt").write_text("\ufeff" + text)
    (bucket / "photos" / ".hidden" / "x.png").write_bytes(b"")
    for data in ({"name": "folder"}, {"name": "list", "train_list": "train.txt"}):
        there, here = (
            load_dataset({**data, "root": root, "scan_dir": ""}, seed=0)
            for root in ("gs://bucket/photos", str(tmp_path / "photos"))
        )
        assert there.split_ids() == here.split_ids() and len(there.train.ids) > 5
        for index in there.train.indices:
            np.testing.assert_array_equal(there.train.source[int(index)], here.train.source[int(index)])
    (bucket / "photos" / "ant" / "bad.png").write_bytes(b"")
    with pytest.raises(ValueError, match="gs://bucket/photos/ant/bad.png.*it is empty"):
        load_dataset({"name": "folder", "root": "gs://bucket/photos", "scan_dir": ""}, seed=0)
    with pytest.raises(ValueError, match="The data root gs://bucket/nowhere does not exist"):
        load_dataset({"name": "folder", "root": "gs://bucket/nowhere"}, seed=0)


def test_folders_in_a_bucket_are_laid_out_as_on_the_disk(bucket, tmp_path, server, monkeypatch):
    image = bucket / "x.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "x.png")
    image.write_bytes((tmp_path / "x.png").read_bytes())
    for name in (
        "seg_train/seg_train/ant/0",
        "seg_train/seg_train/bee/1.png",
        "seg_test/seg_test/ant/2.png",
        "seg_test/seg_test/bee/3.png?x=1",
        "seg_test/seg_test/bee/@eaDir/3.png/thumb.png",
        "seg_train/seg_train/cafe\u0301/4.png",
        "at [1]/a.png",
        "at [1]/b.png",
    ):
        image.copy(bucket / "data" / name)
    (bucket / "data" / "seg_train" / "seg_train" / "bee" / "README").write_bytes(bytes(100_000))
    (bucket / "data" / "seg_train" / "seg_train" / "bee" / "empty").write_bytes(b"")
    sent, answer = [], server.RequestHandlerClass.answer

    def counted(self, status, content=b"", **headers):
        sent.append(len(content) if isinstance(content, bytes) else 0)
        return answer(self, status, content, **headers)

    with monkeypatch.context() as patch:
        patch.setattr(server.RequestHandlerClass, "answer", counted)
        listing = list_folder("gs://bucket/data")
    assert max(sent) == sniff.LENGTH, "more than the first bytes were fetched"
    assert listing.class_names == ("ant", "bee", "caf\u00e9")
    assert {split: paths for split, (paths, _) in listing.splits.items()} == {
        "train": ("seg_train/seg_train/ant/0", "seg_train/seg_train/bee/1.png", "seg_train/seg_train/cafe\u0301/4.png"),
        "test": ("seg_test/seg_test/ant/2.png", "seg_test/seg_test/bee/3.png?x=1"),
    }
    for images in (
        "gs://bucket/data/at [1]",
        "gs://bucket/data/at [1]/*.png",
        "gs://bucket/data/a*/[ab].png",
        "gs://bucket/data/at [1]/**/*.png",
    ):
        assert patterns.find_images(images) == ["gs://bucket/data/at [1]/a.png", "gs://bucket/data/at [1]/b.png"]
    assert len(patterns.find_images("gs://bucket/data/seg_train/seg_train/caf\u00e9")) == 1
    with pytest.raises(ValueError, match="there is no such image"):
        patterns.find_images("gs://bucket/data/nothing/*.png")


def test_a_run_in_a_bucket_has_the_files_of_one_on_the_disk(bucket, tmp_path):
    photos(tmp_path / "photos", bucket / "photos")
    shutil.copy(EMBEDDED["embedded:glyphs"], tmp_path / "weights.safetensors")
    (bucket / "weights.safetensors").write_bytes((tmp_path / "weights.safetensors").read_bytes())
    data = {"name": "folder", "root": "gs://bucket/photos", "validation": 0.25, "crop": "none", "scan_dir": ""}
    config = small.digits_config(
        weights="gs://bucket/weights.safetensors", freeze="all", steps=2, data=data, report=True, familiarity=True
    )
    run = flax_augtl.train(config, "gs://bucket/run", quiet=True)
    assert {path.name for path in (bucket / "run").iterdir()} == {
        "config.json",
        "class_names.json",
        "preprocessing.json",
        "source.json",
        "splits.json",
        "metrics.jsonl",
        "result.json",
        "tensorboard",
        "confusion_test.png",
        "classes_test.json",
        "checkpoints",
        "frozen",
        "predictions_test.csv",
        "predictions_val.csv",
        "calibration.json",
        "features.json",
        "familiarity.npz",
        "report.html",
    }
    assert [row["split"] for row in files.read_metrics("gs://bucket/run")] == ["train", "train", "val", "test"]
    assert next((bucket / "run" / "tensorboard").iterdir()).stat().length > 500
    again = flax_augtl.load_run("gs://bucket/run")
    assert again.result == run.result and flax_augtl.train(config, "gs://bucket/run", quiet=True).result == run.result
    assert [str(path) for path in export(again)] == [
        "gs://bucket/run/export.safetensors",
        "gs://bucket/run/export.json",
    ]
    for weights in ("gs://bucket/run/export.safetensors", "gs://bucket/run"):
        assert flax_augtl.load_source("resnet20", weights).model.num_classes
    with pytest.raises(ValueError, match="no checkpoint at gs://bucket/nothing.safetensors"):
        flax_augtl.load_source("resnet20", "gs://bucket/nothing.safetensors")
    rows = predict.predict_files(again, "gs://bucket/photos/ant/*.png")
    assert [row["path"] for row in rows] == [f"gs://bucket/photos/ant/{index}.png" for index in range(8)]
    assert len(patterns.find_images("gs://bucket/photos")) == 16


def test_a_run_in_a_bucket_survives_as_one_on_the_disk(bucket, tmp_path, monkeypatch):
    """Interrupted, then with its newest checkpoint damaged, it ends with the bits of an undisturbed run on the disk."""
    whole = flax_augtl.train(config(), tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        small.at_step(3, lambda: signal.raise_signal(signal.SIGTERM), patch)
        with signals.handled(), pytest.raises(signals.Interrupted):
            flax_augtl.train(config(), bucket / "run", quiet=True)
    with open_checkpoints(bucket / "run" / "checkpoints", read_only=True) as checkpoints:
        newest = checkpoints.steps()[-1]
    assert newest in (3, 4)
    part = next((bucket / "run" / "checkpoints" / str(newest) / "network" / "d").iterdir())
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 4
    part.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"step {newest} in .* cannot be used: network/d/{part.name} is damaged"):
        flax_augtl.load_run(bucket / "run", step=newest)
    run = flax_augtl.train(config(), bucket / "run", quiet=True)
    jax.tree.map(np.testing.assert_array_equal, run.variables, whole.variables)
    rows = [
        [{**row, "seconds": 0} for row in files.read_metrics(place / "run" if place is bucket else place)]
        for place in (bucket, tmp_path / "whole")
    ]
    assert rows[0] == rows[1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("freeze", "folder"), [("none", "checkpoints"), ("all", "frozen")])
def test_a_checkpoint_that_was_not_committed_gets_no_manifest(freeze, folder, bucket, server, monkeypatch):
    """In a bucket its directory is there from the beginning, under its last name."""
    act = server.RequestHandlerClass.act

    def full(self, path, query, body):
        if "ocdbt" in query.get("name", "") and self.command == "POST":
            return self.answer(403, json.dumps({"error": {"code": 403, "message": "The bucket is full."}}).encode())
        return act(self, path, query, body)

    with monkeypatch.context() as patch:
        patch.setattr(server.RequestHandlerClass, "act", full)
        with pytest.raises(CheckpointError, match="cannot be written"):
            flax_augtl.train(config(freeze=freeze), bucket / "run", quiet=True)
    assert list((bucket / "run" / folder).iterdir())
    for name in (folder, "checkpoints/2"):
        assert not (bucket / "run" / name / "SHA256SUMS").exists()
    assert flax_augtl.train(config(freeze=freeze), bucket / "run", quiet=True).step in (2, 4)
