"""main.py as a user runs it, in a subprocess, for each mode."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

CONFIG = "--config=tests/integration/tiny.py"


def main(*arguments, code=0):
    """Run main.py and return what it printed, (stdout, stderr)."""
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "main.py", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run: its directory and what it printed."""
    workdir = tmp_path_factory.mktemp("run") / "first"
    _, said = main(CONFIG, f"--workdir={workdir}")
    return workdir, said


def test_train_leaves_a_whole_run_directory_and_says_what_it_does(trained):
    workdir, said = trained
    files = {path.name for path in workdir.iterdir()}
    assert files == {
        "config.json",
        "class_names.json",
        "preprocessing.json",
        "source.json",
        "splits.json",
        "metrics.jsonl",
        "result.json",
        "checkpoints",
        "frozen",
        "tensorboard",
        "confusion_test.png",
        "classes_test.json",
        "predictions_test.csv",
        "predictions_val.csv",
        "calibration.json",
        "features.json",
        "familiarity.npz",
        "report.html",
    }
    result = json.loads((workdir / "result.json").read_text())
    assert result["test"]["n"] == 1000 and result["val"]["n"] == 10
    assert 0 <= result["test"]["top1"] <= 1 and result["best_step"] in (2, 4) and result["config_name"] == "test"
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    seen = [(row["split"], row["step"]) for row in rows if row["split"] != "test"]
    assert seen == [("train", 1), ("train", 2), ("val", 2), ("train", 3), ("train", 4), ("val", 4)]
    assert next((workdir / "tensorboard").iterdir()).stat().st_size > 500
    table = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.strip()}
    assert table["layer3"] == ["205,696", "frozen", "0"] and table["head"] == ["3,857", "new", "0.1"]
    assert re.search(
        r"\nMemory on each device, as the compiler counts it, [0-9.]+ MB: parameters 1\.2 MB, optimizer [0-9.]+ MB, ",
        said,
    )
    assert (
        "compiled in" in said
        and "10 classes (0, 1, 2, 3, …), 30 training, 10 validation and 1000 test examples" in said
    )
    with Image.open(workdir / "confusion_test.png") as image:
        assert min(image.size) > 300


def test_a_finished_run_says_so(trained):
    workdir, _ = trained
    before = (workdir / "result.json").read_bytes()
    said, _ = main(CONFIG, f"--workdir={workdir}")
    assert "holds this run, and it is finished" in said
    assert (workdir / "result.json").read_bytes() == before


@pytest.mark.slow
def test_evaluate_needs_the_directory_only_and_gives_the_same_figures(trained):
    workdir, _ = trained
    result = json.loads((workdir / "result.json").read_text())
    for split in ("test", "val"):
        said, _ = main("--mode=evaluate", f"--workdir={workdir}", f"--split={split}")
        assert f"{split}, step {result['best_step']}: top-1 {result[split]['top1']:.4f}" in said
        assert f"loss {result[split]['loss']:.4f} ({result[split]['n']} examples)" in said


@pytest.mark.slow
def test_predict_writes_csv_and_prints_a_table(trained, tmp_path):
    workdir, _ = trained
    (tmp_path / "photos" / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, mode in (("a b.png", "RGB"), ("grey.png", "L"), ("more/ü.jpg", "RGB")):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).convert(mode).save(tmp_path / "photos" / name)
    said, _ = main("--mode=predict", f"--workdir={workdir}", f"--images={tmp_path / 'photos'}")
    with (workdir / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "probability"] + [
        f"{name}{rank}" for rank in range(2, 6) for name in ("label", "probability")
    ] + ["familiarity", "unknown", "reason"]
    names = ("a b.png", "grey.png", "more/ü.jpg")
    assert [row["path"] for row in rows] == [str(tmp_path / "photos" / name) for name in names]
    for row in rows:
        chances = [float(row[f"probability{rank}"]) for rank in ("", 2, 3, 4, 5)]
        assert chances == sorted(chances, reverse=True) and 0.4 < sum(chances) < 1.0001
        assert len({row[f"label{rank}"] for rank in ("", 2, 3, 4, 5)}) == 5
    assert "a b.png" in said and f"{float(rows[0]['probability']):.1%}" in said and "Predictions of 3 images" in said
    (tmp_path / "photos" / "broken.png").write_text("<html>")
    _, said = main("--mode=predict", f"--workdir={workdir}", f"--images={tmp_path / 'photos' / '*.png'}", code=2)
    with (workdir / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(os.path.basename(row["path"]), row["label"] != "", row["reason"] != "") for row in rows] == [
        ("a b.png", True, False),
        ("broken.png", False, True),
        ("grey.png", True, False),
    ]
    assert "predictions.csv had predictions of 1 other image, such as " in said
    assert f"1 image could not be read:\n  {tmp_path / 'photos' / 'broken.png'}: " in said
    _, said = main("--mode=predict", f"--workdir={workdir}", f"--images={tmp_path / 'nothing'}", code=1)
    assert "there is no such image" in said


@pytest.mark.slow
def test_predictions_of_an_earlier_start_stay_where_no_image_can_be_read(trained, tmp_path):
    workdir, _ = trained
    (tmp_path / "broken.png").write_bytes(b"no image")
    before = (workdir / "predictions.csv").read_bytes()
    _, said = main("--mode=predict", f"--workdir={workdir}", f"--images={tmp_path}", code=1)
    assert "1 image could not be read" in said and (workdir / "predictions.csv").read_bytes() == before


def test_export_holds_every_tensor_and_names(trained):
    from safetensors.numpy import load_file

    workdir, _ = trained
    said, _ = main("--mode=export", f"--workdir={workdir}")
    assert said.split() == [str(workdir / "export.safetensors"), str(workdir / "export.json")]
    tensors = load_file(workdir / "export.safetensors")
    assert tensors["conv1.weight"].shape == (16, 3, 3, 3) and tensors["fc.weight"].shape[1] == 64
    assert tensors["head.classifier.kernel"].shape == (16, 10)
    sheet = json.loads((workdir / "export.json").read_text())
    assert sheet["class_names"] == [str(digit) for digit in range(10)] and sheet["head"]["new_layers"] == [16]


@pytest.mark.slow
def test_export_as_onnx(trained):
    for library in ("onnx", "onnxruntime"):
        pytest.importorskip(library, reason="needs the extra `onnx`")
    workdir, _ = trained
    export = "--mode=export", f"--workdir={workdir}", "--format=onnx"
    said, log = main(*export, "--outputs=logits,probabilities", "--weights=float16")
    assert said.split() == [str(workdir / name) for name in ("export.onnx", "export_onnx.json", "predict_onnx.py")]
    assert "float16 weights: top-1 " in log and f"The model card is {workdir / 'README.md'}" in log
    _, said = main(*export, "--outputs=entropy", code=1)
    assert said == "error: --outputs=entropy is unknown. Choices: probabilities, logits, features, familiarity.\n"
    _, said = main("--mode=evaluate", f"--workdir={workdir}", "--outputs=logits", code=1)
    assert said == "error: --outputs has no effect with --mode=evaluate: it belongs to --mode=export. Leave it out.\n"


@pytest.mark.slow
def test_another_config_is_refused_and_extend_goes_on(trained, tmp_path):
    workdir, _ = trained
    _, said = main(CONFIG, f"--workdir={workdir}", "--config.steps=6", "--config.freeze=layer3", code=1)
    assert "config.freeze: 'all' there, 'layer3' here" in said and "config.steps: 4 there, 6 here" in said
    assert "Traceback" not in said
    _, said = main(CONFIG, f"--workdir={workdir}", "--config.steps=6", "--extend")
    assert "Resuming from step 4 of 6" in said
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3, 4, 5, 6]
    before = (workdir / "result.json").read_bytes()
    said, _ = main(CONFIG, f"--workdir={workdir}", "--config.steps=6", "--extend")
    assert "holds this run, and it is finished. To train it longer, raise config.epochs or config.steps and add" in said
    _, said = main(CONFIG, f"--workdir={workdir}", "--config.steps=5", "--extend", code=1)
    assert "--extend needs a longer run" in said and "Raise config.epochs or config.steps." in said
    assert (workdir / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CONFIG, "--config.learning_rat=1"), "learning_rate"),
        ((CONFIG, "--mode=trian", "--workdir=x"), "train"),
        ((CONFIG, "--config.network=resnet19", "--workdir={tmp}"), "There is no network 'resnet19'. Did you mean"),
        ((CONFIG,), "--mode=train needs --workdir"),
        (("--config=configs/nothing.py", "--workdir={tmp}"), "configs/nothing.py"),
        (
            ("--mode=evaluate", "--workdir={tmp}"),
            "is not a run directory: it has no config.json. There is no such folder.",
        ),
        ((CONFIG, "--workdir="), "--mode=train needs --workdir"),
        (
            ("--config=configs/digits.py", "--config.head.preset=wider", "--workdir={tmp}"),
            "--config.head.preset has no effect",
        ),
        (
            (CONFIG, "--config.label_smoothing=1.5", "--workdir={tmp}"),
            "config.label_smoothing=1.5 must be at least 0 and",
        ),
        (
            ("--mode=evaluate", "--dry_run", "--workdir={tmp}"),
            "--dry_run has no effect with --mode=evaluate: it belongs to --mode=train and --mode=study.",
        ),
        ((CONFIG, "--mode=evaluate", "--workdir={tmp}"), "--config has no effect with --mode=evaluate: the run in"),
        (
            (CONFIG, "--config.data.crop=foo", "--workdir={tmp}"),
            "config.data.crop='foo' is not one of resized, random, none",
        ),
    ],
)
def test_a_mistake_gets_a_sentence(arguments, message, tmp_path):
    workdir = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "main.py", *(a.format(tmp=workdir) for a in arguments)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode != 0 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) < 12, done.stderr
    assert not workdir.exists()
