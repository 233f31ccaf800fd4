"""What a finished run has: its temperature in its directory, and calibrated probabilities wherever it predicts."""

import csv
import json

import numpy as np
import pytest

import flax_augtl
from flax_augtl.config.added_fields import ADDED
from flax_augtl.config.convert import typed
from flax_augtl.data import load_dataset
from flax_augtl.training.evaluation import Evaluation
from flax_augtl.trust import calibration, finish


def test_the_temperature_is_that_of_the_validation_images(run):
    stored = json.loads((run.workdir / "calibration.json").read_text())
    validation = run.evaluation("val")
    assert stored == calibration.fit(validation.probabilities, validation.labels, run.step).to_json()
    assert run.result["calibration"] == stored
    assert run.temperature == stored["temperature"] != 1.0
    assert flax_augtl.load_run(run.workdir).temperature == run.temperature


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
