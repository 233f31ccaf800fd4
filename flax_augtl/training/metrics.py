"""Metrics of classification from sums over examples: exact for any batch size, padding and number of devices."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.errors import UserError

BINS = 15


def evaluation_sums(logits: jax.Array, losses: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Return sums over a batch.

    Args:
      logits: float32 [N, C].
      losses: float32 [N].
      labels: int32 [N].
      mask: float32 [N], 1 for an example and 0 for padding.

    Returns:
      `confusion` [C, C] (row: label, column: prediction), `loss` and `top5`; and `bin_count`, `bin_confidence` and
      `bin_correct` [15], in 15 equal bins of the confidence, which is the highest probability.
    """
    probabilities = jax.nn.softmax(logits)
    predicted = jnp.argmax(logits, axis=-1)
    confidence = jnp.max(probabilities, axis=-1)
    classes = logits.shape[-1]
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    above = jnp.sum(logits > of_label, axis=-1)
    # Bins are open on the left, as in the definition of the calibration error; the last one includes 1.
    index = jnp.clip(jnp.ceil(confidence * BINS).astype(jnp.int32) - 1, 0, BINS - 1)
    bins = jnp.zeros(BINS)
    return {
        "confusion": jnp.zeros((classes, classes)).at[labels, predicted].add(mask),
        "loss": jnp.sum(jnp.where(mask > 0, losses, 0.0)),
        "top5": jnp.sum((above < 5) * mask),
        "bin_count": bins.at[index].add(mask),
        "bin_confidence": bins.at[index].add(jnp.where(mask > 0, confidence, 0.0)),
        "bin_correct": bins.at[index].add((predicted == labels) * mask),
    }


def add(sums: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Add the sums of several batches in float64.

    Raises:
      UserError: there is no batch.
    """
    total: dict[str, np.ndarray] = {}
    for batch in sums:
        for name, value in batch.items():
            total[name] = total.get(name, 0.0) + np.asarray(value, np.float64)
    if not total:
        raise UserError("There is nothing to evaluate: the split has no example.")
    return total


def summary(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the metrics of summed batches.

    Returns:
      The fractions `top1`, `top5`, `mean_per_class` (the mean accuracy over the classes that occur) and
      `calibration_error` (expected, 15 equal bins); `loss`, the mean cross-entropy in nats; `n`, the number of examples.
    """
    confusion = sums["confusion"]
    n = confusion.sum()
    per_class = class_accuracy(confusion)
    return {
        "top1": float(np.trace(confusion) / n),
        "top5": float(sums["top5"] / n),
        "mean_per_class": float(np.nanmean(per_class)),
        "loss": float(sums["loss"] / n),
        "calibration_error": float(np.abs(sums["bin_correct"] - sums["bin_confidence"]).sum() / n),
        "n": int(n),
    }


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return counts [C, C], one row per label and one column per prediction."""
    return np.bincount(np.asarray(labels) * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the accuracy of each class [C] of a confusion matrix [C, C]; NaN for a class without examples."""
    count = confusion.sum(axis=1)
    return np.divide(np.diag(confusion), count, out=np.full(len(count), np.nan), where=count > 0)


def class_table(confusion: np.ndarray, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a row per class: `label`, `n`, `accuracy` (None without examples), `taken_for` (most frequent wrong class)."""
    rows = []
    for index, (name, accuracy) in enumerate(zip(class_names, class_accuracy(confusion), strict=True)):
        wrong = confusion[index].copy()
        wrong[index] = 0
        rows.append(
            {
                "label": name,
                "n": int(confusion[index].sum()),
                "accuracy": None if np.isnan(accuracy) else float(accuracy),
                "taken_for": class_names[int(wrong.argmax())] if wrong.any() else None,
            }
        )
    return rows
