"""What evaluation says of every image, and the metrics made of it, against scikit-learn."""

import json

import jax
import numpy as np
import pytest
from sklearn import metrics as sklearn

from flax_augtl.data import dataset_from_arrays
from flax_augtl.pretrained import Preprocessing
from flax_augtl.training import evaluation, metrics
from flax_augtl.training.evaluation import Evaluation
from flax_augtl.training.step import AXIS, cross_entropy
from tests import small


def evaluated(logits, labels, keep=True):
    logits, labels = np.asarray(logits, np.float32), np.asarray(labels)
    losses = cross_entropy(logits, np.eye(logits.shape[1], dtype=np.float32)[labels])
    sums = metrics.add([metrics.evaluation_sums(logits, losses, labels, np.ones(len(labels), np.float32))])
    return Evaluation(sums, labels, np.asarray(jax.nn.softmax(logits)) if keep else None)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    labels = rng.choice(5, 300, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    return (2 * rng.normal(size=(300, 5)) + 2 * np.eye(5)[labels]).astype(np.float32), labels


def test_against_scikit_learn(batch):
    logits, labels = batch
    found = evaluated(logits, labels)
    predicted, probabilities = logits.argmax(1), found.probabilities
    for average, prefix in (("macro", ""), ("weighted", "weighted_")):
        precision, recall, f1, _ = sklearn.precision_recall_fscore_support(labels, predicted, average=average)
        assert found.metrics[f"{prefix}precision"] == pytest.approx(precision)
        assert found.metrics[f"{prefix}f1"] == pytest.approx(f1)
        assert found.metrics["mean_per_class" if average == "macro" else "top1"] == pytest.approx(recall)
    assert found.metrics["mean_per_class"] == pytest.approx(sklearn.balanced_accuracy_score(labels, predicted))
    assert found.metrics["kappa"] == pytest.approx(sklearn.cohen_kappa_score(labels, predicted))
    probabilities = probabilities / probabilities.sum(1, keepdims=True)
    assert found.metrics["roc_auc"] == pytest.approx(sklearn.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert found.metrics["loss"] == pytest.approx(sklearn.log_loss(labels, probabilities), rel=1e-5)
    rows = found.class_table(tuple("abcde"))
    report = sklearn.classification_report(labels, predicted, target_names=list("abcde"), output_dict=True)
    for row in rows:
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx(
            tuple(report[row["label"]][name] for name in ("precision", "recall", "f1-score"))
        )
        assert row["recall"] == row["accuracy"] and row["n"] == report[row["label"]]["support"]


def test_metrics_in_closed_form():
    """Two classes: 3 of 4 and 1 of 2 images are right."""
    found = evaluated(
        np.log([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.45, 0.55], [0.6, 0.4]]), [0, 0, 0, 0, 1, 1]
    )
    row, other = found.class_table(("a", "b"))
    assert (row["precision"], row["recall"], row["f1"]) == pytest.approx((3 / 4, 3 / 4, 3 / 4))
    assert (other["precision"], other["recall"], other["f1"]) == pytest.approx((1 / 2, 1 / 2, 1 / 2))
    # Of 4 × 2 pairs all but two are in order: (0.4 of a, 0.45 and 0.6 of b).
    assert row["roc_auc"] == other["roc_auc"] == found.metrics["roc_auc"] == pytest.approx(6 / 8)
    # Agreement 4/6; by chance (4/6)² + (2/6)² = 5/9.
    assert found.metrics["kappa"] == pytest.approx((4 / 6 - 5 / 9) / (4 / 9))


def test_a_class_that_is_absent_or_never_predicted_has_no_number_and_no_warning():
    """Warnings are errors. Class b is never predicted, class c does not occur but is predicted, d is neither."""
    found = evaluated(4 * np.eye(4)[[0, 0, 2, 0]], [0, 0, 0, 1])
    rows = found.class_table(tuple("abcd"))
    assert [row["precision"] for row in rows] == [pytest.approx(2 / 3), None, 0.0, None]
    assert [row["recall"] for row in rows] == [pytest.approx(2 / 3), 0.0, None, None]
    assert [row["f1"] for row in rows] == [pytest.approx(2 / 3), 0.0, 0.0, None]
    assert [row["roc_auc"] is None for row in rows] == [False, False, True, True]
    # Averages are over the two classes that occur.
    assert found.metrics["precision"] == pytest.approx(1 / 3) and found.metrics["f1"] == pytest.approx(1 / 3)
    assert found.metrics["mean_per_class"] == pytest.approx(1 / 3)
    assert json.loads(json.dumps([found.metrics, rows], allow_nan=False))


def test_one_class_alone_has_neither_kappa_nor_area():
    found = evaluated([[3, 0], [3, 0]], [0, 0])
    assert found.metrics["kappa"] is None and found.metrics["roc_auc"] is None and found.metrics["f1"] == 1.0
    assert any("kappa not defined, ROC AUC not defined" in line for line in evaluation.as_lines(found.metrics))


def test_without_probabilities_only_the_area_is_missing(batch):
    logits, labels = batch
    whole, without = evaluated(logits, labels).metrics, evaluated(logits, labels, keep=False).metrics
    assert without == {**whole, "roc_auc": None}


@pytest.fixture(scope="module")
def network():
    net = small.network("traditional", num_classes=3, axis_name=AXIS)
    return net, small.variables(net)


def split_of(n):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (n + 9, 8, 8, 3), np.uint8), np.arange(n + 9) % 3
    return dataset_from_arrays(images[n:], labels[n:], test=(images[:n], labels[:n]), data={"validation": 0}).test


PREPROCESSING = Preprocessing(image_size=8, crop_fraction=1.0)
DATA = {**small.digits_config().data.to_dict()}


def test_probabilities_come_in_the_order_of_the_examples_without_padding(network):
    """13 images in batches of 8 over 4 devices, of which the last is filled up."""
    net, variables = network
    examples = split_of(13)
    found = evaluation.evaluation(net, PREPROCESSING, variables, examples, DATA, batch_size=8)
    images = np.stack([np.asarray(examples.source.images[index]) for index in examples.indices])
    expected = jax.nn.softmax(net.apply(variables, PREPROCESSING.normalise(images)))
    assert found.probabilities.shape == (13, 3) and found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.labels, examples.labels)
    assert found.metrics["top1"] == pytest.approx(np.mean(found.probabilities.argmax(1) == examples.labels))


def test_above_the_limit_probabilities_are_not_kept(network, monkeypatch):
    net, variables = network
    monkeypatch.setattr(evaluation, "MOST_BYTES", 13 * 3 * 4 - 1)
    found = evaluation.evaluation(net, PREPROCESSING, variables, split_of(13), DATA, batch_size=8)
    assert found.probabilities is None and found.metrics["n"] == 13 and found.metrics["roc_auc"] is None
