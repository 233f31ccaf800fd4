"""Metrics against scikit-learn and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

from flax_augtl.training import metrics
from flax_augtl.training.step import cross_entropy


def sums_of(logits, labels, mask=None):
    mask = np.ones(len(labels), np.float32) if mask is None else mask
    logits, labels = jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32)
    losses = cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1]))
    return metrics.evaluation_sums(logits, losses, labels, jnp.asarray(mask))


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return 2 * rng.normal(size=(200, 8)).astype(np.float32), rng.integers(0, 8, 200)


def test_against_scikit_learn(batch):
    logits, labels = batch
    sums = metrics.add([sums_of(logits, labels)])
    values = metrics.summary(sums)
    predicted = logits.argmax(1)
    probabilities = np.exp(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    np.testing.assert_array_equal(sums["confusion"], confusion_matrix(labels, predicted))
    assert values["top1"] == pytest.approx((predicted == labels).mean())
    assert values["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert values["mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert values["loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    assert values["n"] == 200


@pytest.mark.slow
def test_batches_and_padding_do_not_matter(batch):
    logits, labels = batch
    whole = metrics.summary(metrics.add([sums_of(logits, labels)]))
    parts = [sums_of(logits[start : start + 7], labels[start : start + 7]) for start in range(0, 200, 7)]
    padding = sums_of(np.full((9, 8), np.nan), np.zeros(9, int), np.zeros(9, np.float32))
    assert metrics.summary(metrics.add([*parts, padding])) == pytest.approx(whole, rel=1e-6)


def test_calibration_error_in_closed_form():
    # Ten predictions at confidence 0.7, of which 4 are right; ten at 0.9, of which all are.
    logits = np.log([[0.7, 0.3]] * 10 + [[0.9, 0.1]] * 10)
    labels = [0] * 4 + [1] * 6 + [0] * 10
    value = metrics.summary(metrics.add([sums_of(logits, labels)]))["calibration_error"]
    assert value == pytest.approx((10 * 0.3 + 10 * 0.1) / 20, rel=1e-5)


def test_a_class_without_examples_does_not_count():
    confusion = np.array([[3.0, 1, 0], [0, 2, 0], [0, 0, 0]])
    np.testing.assert_array_equal(metrics.class_accuracy(confusion), [0.75, 1.0, np.nan])
    rows = metrics.class_table(confusion, ("a", "b", "c"))
    assert [row["accuracy"] for row in rows] == [0.75, 1.0, None]
    assert [row["taken_for"] for row in rows] == ["b", None, None]


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="the split has no example"):
        metrics.add([])


def test_label_smoothing_in_closed_form():
    logits, labels = jnp.log(jnp.array([[0.7, 0.2, 0.1]])), jnp.array([[1.0, 0.0, 0.0]])
    expected = -(0.8 * np.log(0.7) + 0.1 * (np.log(0.7) + np.log(0.2) + np.log(0.1)) * 2 / 3)
    np.testing.assert_allclose(cross_entropy(logits, labels, 0.2), [expected], rtol=1e-6)
