"""The temperature: closed forms, the definition of the calibration error, and that no prediction changes."""

import math

import jax
import numpy as np
import pytest

from flax_augtl.errors import UserError
from flax_augtl.training import metrics
from flax_augtl.trust import calibration
from flax_augtl.trust.calibration import Calibration, calibrated, fit, log_loss, optimum


def softmax(logits):
    return np.asarray(jax.nn.softmax(np.asarray(logits, np.float32)))


def two_classes(gap, right, wrong):
    """Images that all have the logits (gap, 0), of which `right` are of the first class."""
    return np.tile([gap, 0.0], (right + wrong, 1)), np.array([0] * right + [1] * wrong)


@pytest.mark.parametrize("gap, right, wrong", [(3.0, 8, 2), (0.5, 9, 1), (8.0, 30, 10)])
def test_the_optimum_of_two_classes_with_equal_logits_makes_the_confidence_the_accuracy(gap, right, wrong):
    logits, labels = two_classes(gap, right, wrong)
    assert optimum(logits, labels) == pytest.approx(gap / math.log(right / wrong), rel=1e-8)
    found = fit(softmax(logits), labels, 7)
    assert found.temperature == pytest.approx(gap / math.log(right / wrong), rel=1e-4)
    assert (found.step, found.images, found.note) == (
        7, right + wrong, f"Fitted to the log-loss of {right + wrong} validation images."
    )  # fmt: skip
    shown = calibrated(softmax(logits), found.temperature)
    np.testing.assert_allclose(shown[:, 0], right / (right + wrong), rtol=1e-5)
    assert calibration.calibration_error(shown, labels) < 1e-5


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(5000, 5))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # Drawn from the softmax.
    found = fit(softmax(temperature * logits), labels, 0)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    # The derivative of the log-loss is zero there.
    log = calibration.log_probabilities(softmax(temperature * logits))
    ends = [log_loss(log, labels, found.temperature * factor) for factor in (0.99, 1.0, 1.01)]
    assert ends[1] < min(ends[0], ends[2])


def test_without_an_error_an_underconfident_network_is_sharpened_by_one_imagined_image():
    logits, labels = two_classes(3.0, 20, 0)
    found = fit(softmax(logits), labels, 0)
    assert found.temperature == pytest.approx(3.0 / math.log(20.5 / 0.5), rel=1e-4)
    assert "since no validation image is classified wrongly; cross-validation confirms it." in found.note


def test_without_an_error_the_temperature_of_a_confident_network_stays_1():
    logits, labels = two_classes(9.0, 20, 0)
    found = fit(softmax(logits), labels, 0)
    assert found.temperature == 1.0 and found.note.startswith("The temperature stays 1, since no validation image")


def test_a_network_that_is_worse_than_chance_gets_no_temperature_at_the_bound():
    logits, labels = two_classes(5.0, 3, 40)
    found = fit(softmax(logits), labels, 0)
    assert 1.0 < found.temperature <= calibration.HIGHEST and "has no minimum in reach" in found.note


@pytest.mark.parametrize(
    "probabilities, why", [(None, "too many to keep"), (np.full((2, 3), np.nan, np.float32), "are not finite")]
)
def test_what_cannot_be_fitted_is_not_calibrated(probabilities, why):
    found = fit(probabilities, np.array([0, 1]), 3)
    assert found.temperature is None and why in found.note


def test_many_probabilities_are_thinned_out(monkeypatch):
    logits, labels = two_classes(3.0, 4000, 1000)
    monkeypatch.setattr(calibration, "_MOST", 4000)
    found = fit(softmax(logits), labels, 0)
    assert found.images == 2000
    assert found.temperature == pytest.approx(3.0 / math.log(4), rel=0.01)


@pytest.mark.parametrize("temperature", [0.05, 0.7, 3.0, 20.0])
def test_the_likeliest_class_never_changes(temperature):
    rng = np.random.default_rng(0)
    some = softmax(rng.normal(size=(500, 4)) * rng.uniform(0, 60, (500, 1)))
    # The next larger float32, where rounding makes two values equal.
    close = np.full((50, 4), 0.25, np.float32)
    close[np.arange(50), rng.integers(0, 4, 50)] = np.nextafter(np.float32(0.25), np.float32(1))
    for probabilities in (some, close):
        found = calibrated(probabilities, temperature)
        np.testing.assert_array_equal(found.argmax(axis=1), probabilities.argmax(axis=1))
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
        assert found.dtype == np.float32 and (found >= 0).all()


def test_probabilities_at_a_temperature_are_those_of_the_divided_logits():
    logits = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32) * 5
    np.testing.assert_allclose(calibrated(softmax(logits), 2.5), softmax(logits / 2.5), atol=2e-6)
    some = softmax(logits)
    assert calibrated(some, None) is some and calibrated(some, 1.0) is some


def test_the_calibration_error_is_that_of_the_metrics():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(300, 7)).astype(np.float32) * 3, rng.integers(0, 7, 300)
    sums = metrics.add([metrics.evaluation_sums(logits, np.zeros(300), labels, np.ones(300))])
    wanted = metrics.summary(sums)["calibration_error"]
    assert calibration.calibration_error(softmax(logits), labels) == pytest.approx(wanted, abs=1e-6)
    bins = calibration.reliability(softmax(logits), labels)
    np.testing.assert_array_equal([one.count for one in bins], sums["bin_count"][sums["bin_count"] > 0])


def test_metrics_without_and_with_a_temperature():
    logits, labels = two_classes(3.0, 8, 2)
    nothing = {"loss_calibrated": None, "calibration_error_calibrated": None}
    assert calibration.calibrated_metrics(softmax(logits), labels, None) == nothing
    assert calibration.calibrated_metrics(None, labels, 2.0) == nothing
    found = calibration.calibrated_metrics(softmax(logits), labels, 3.0 / math.log(4))
    assert found["loss_calibrated"] == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2), rel=1e-6)
    assert found["calibration_error_calibrated"] == pytest.approx(0, abs=1e-6)


def test_json_and_back():
    found = Calibration(1.25, 60, 200, "Fitted to the log-loss of 200 validation images.")
    assert Calibration.from_json(found.to_json()) == found
    for wrong in ({}, [], {**found.to_json(), "temperature": 0}, {**found.to_json(), "temperature": float("nan")}):
        with pytest.raises(UserError, match="describes no calibration. Remove the file"):
            Calibration.from_json(wrong)
