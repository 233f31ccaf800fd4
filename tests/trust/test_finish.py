"""What a finished run has: its temperature in its directory, and calibrated probabilities wherever it predicts."""

import csv
import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
from PIL import Image

import flax_augtl
from flax_augtl import evaluation_report, predict_mode
from flax_augtl.config.added_fields import ADDED
from flax_augtl.config.convert import typed
from flax_augtl.data import load_dataset
from flax_augtl.prediction_extras import Batch, UnknownImages
from flax_augtl.training.evaluation import Evaluation
from flax_augtl.trust import calibration, familiarity, finish


def test_the_temperature_is_that_of_the_validation_images(run):
    stored = json.loads((run.workdir / "calibration.json").read_text())
    validation = run.evaluation("val")
    assert stored == calibration.fit(validation.probabilities, validation.labels, run.step).to_json()
    assert run.result["calibration"] == stored
    assert run.temperature == stored["temperature"] != 1.0
    assert flax_augtl.load_run(run.workdir).temperature == run.temperature


@pytest.mark.slow
def test_result_json_has_loss_and_calibration_error_before_and_after(run):
    for split in ("val", "test"):
        evaluated, values = run.evaluation(split), run.result[split]
        assert values["loss"] == pytest.approx(evaluated.metrics["loss"])
        assert values["calibration_error"] == pytest.approx(evaluated.metrics["calibration_error"])
        shown = calibration.calibrated(evaluated.probabilities, run.temperature)
        right = shown[np.arange(len(shown)), evaluated.labels]
        assert values["loss_calibrated"] == pytest.approx(-np.log(right).mean(), rel=1e-4)
        assert values["calibration_error_calibrated"] == pytest.approx(
            calibration.calibration_error(shown, evaluated.labels)
        )
    assert run.result["val"]["loss_calibrated"] < run.result["val"]["loss"]


def test_predict_and_the_files_of_predictions_are_calibrated(run):
    examples = load_dataset(typed(run.config).data, seed=run.config.seed).val
    images = [np.asarray(examples.source[i]) for i in examples.indices]
    found = run.predict(images)
    np.testing.assert_allclose(
        found, calibration.calibrated(run.evaluation("val").probabilities, run.temperature), atol=1e-5
    )
    with (run.workdir / "predictions_val.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == list(examples.ids)
    np.testing.assert_allclose([float(row["probability"]) for row in rows], found.max(axis=1), atol=1e-5)
    np.testing.assert_allclose([float(row["probability_3"]) for row in rows], found[:, 3], atol=1e-5)


def test_other_weights_of_the_run_are_not_calibrated(run):
    assert calibration.temperature_of(run.workdir, run.step + 1) is None
    shown = calibration.sentence(run.workdir, run.step + 1, None, np.zeros(0))
    assert shown == f"Not calibrated: the temperature was fitted to the weights of step {run.step}."


@pytest.mark.slow
def test_evaluate_prints_what_the_temperature_changes(run):
    evaluated = run.evaluation("test")
    text = calibration.sentence(run.workdir, run.step, evaluated.probabilities, evaluated.labels)
    values = run.result["test"]
    assert text == (
        f"calibrated with temperature {run.temperature:.3g}: loss {values['loss_calibrated']:.4f}, "
        f"calibration_error {values['calibration_error_calibrated']:.4f}"
    )


def test_without_a_validation_split_or_on_request_nothing_is_fitted():
    found = finish.calibrate("temperature", None, 5)
    assert (found.temperature, found.note) == (None, "Not calibrated: there is no validation split.")
    some = Evaluation({}, np.array([0]), np.ones((1, 1), np.float32))
    assert finish.calibrate("none", some, 5) is None


def test_a_run_of_an_earlier_version_stays_as_it_is(tmp_path):
    assert ADDED["calibrate"].absent == "none" and ADDED["familiarity"].absent is False
    assert calibration.temperature_of(tmp_path, 3) is None
    text = calibration.sentence(tmp_path, 3, None, np.zeros(0))
    assert text == "Not calibrated: probabilities are the softmax of the logits as they are."


def test_the_familiarity_of_validation_images_is_their_rank(run):
    found = familiarity.read(run.workdir, run.step)
    examples = load_dataset(typed(run.config).data, seed=run.config.seed).val
    assert found.note == f"Familiarity goes by {len(examples)} validation images."
    images = [np.asarray(examples.source[i]) for i in examples.indices]
    pixels = np.stack([run.preprocessing.resize_and_crop(Image.fromarray(image)) for image in images])
    outputs = run.predictor()(pixels)
    marks = UnknownImages(found, 0.3).columns(Batch([""] * len(images), pixels, *outputs))
    count = len(images)
    np.testing.assert_allclose(sorted(float(mark["familiarity"]) for mark in marks),
                               np.arange(1, count + 1) / (count + 1), atol=2 / count)  # fmt: skip
    assert [mark["unknown"] for mark in marks] == [
        "yes" if float(mark["familiarity"]) < 0.3 else "no" for mark in marks
    ]


def test_the_report_of_the_training_shows_every_section(run):
    text = (run.workdir / "report.html").read_text("utf-8")
    for title in ("Verdict", "Learning curves", "Metrics", "Confusion", "Most confident errors", "Calibration",
                  "Unknown images", "Labels and odd images", "Classes", "Data", "Cost and versions", "Config"):  # fmt: skip
        assert f"<h2>{title}</h2>" in text
    values = run.result["test"]
    assert f"<th>Log-loss, calibrated</th><td>{values['loss_calibrated']:.4f}</td>" in text
    assert f"Top-1 accuracy {100 * values['top1']:.1f} % on {values['n']} test images" in text
    assert "The right half of an image shows what speaks for the predicted class" in text
    assert "600 of 1080 images were looked at, those of the first split first." in text
    assert "of 600.</li>" in text  # The labels that are probably wrong.


@pytest.mark.slow
def test_evaluate_fits_and_reports_what_an_older_run_lacks(run, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(run.workdir, older)
    for name in ("calibration.json", "familiarity.npz", "report.html"):
        (older / name).unlink()
    config = json.loads((older / "config.json").read_text())
    (older / "config.json").write_text(
        json.dumps(
            {name: value for name, value in config.items() if name not in ("calibrate", "familiarity", "report")}
        )
    )
    loaded = flax_augtl.load_run(older)
    assert loaded.temperature is None
    evaluated = loaded.evaluation("val")
    assert evaluation_report.write(loaded, "val", evaluated) == f"Report: {older / 'report_val.html'}"
    assert "These weights have no familiarity: the run was written" in (older / "report_val.html").read_text()
    fitted, lines = evaluation_report.calibrate(loaded)
    assert fitted.temperature == pytest.approx(run.temperature) and lines[0].startswith("Calibration: temperature ")
    for name in ("calibration.json", "familiarity.npz"):
        assert (older / name).exists()
    evaluation_report.write(fitted, "val", evaluated)
    text = (older / "report_val.html").read_text()
    assert "Least familiar images" in text and "Labels that are probably wrong: " in text and " of 40.</li>" in text


def test_the_report_can_be_left_out():
    assert ADDED["report"].absent is True


def test_predict_marks_images_or_says_why_not(run, tmp_path, capsys):
    flags = types.SimpleNamespace(unknown_below=0.05)
    (extra,) = predict_mode.unknown_images(run, flags)
    assert isinstance(extra, UnknownImages)
    assert capsys.readouterr().err == "note: Familiarity goes by 40 validation images.\n"
    assert predict_mode.unknown_images(dataclasses.replace(run, workdir=type(run.workdir)(tmp_path)), flags) == []
    assert capsys.readouterr().err.startswith(
        "note: images of none of the classes are not marked: the weights of step 6"
    )
