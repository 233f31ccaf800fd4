"""Classes of unequal size: their weights in the loss, and a warning."""

from collections.abc import Sequence

import numpy as np

from flax_augtl.config.schema import Config
from flax_augtl.errors import UserError

RATIO = 10


def imbalance(labels: np.ndarray, class_names: Sequence[str], config: Config) -> str | None:
    """Return a warning if the largest class has ten times the images of the smallest, or more.

    Return None if the configuration weights the classes already. Classes without images do not count.

    Args:
      labels: labels of the training examples, int [n].
      class_names: the names of the classes.
      config: the configuration; its `balance_classes` and `class_weights` are read.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    there = np.flatnonzero(counts)
    if config.balance_classes or config.class_weights or not len(there):
        return None
    largest, smallest = there[counts[there].argmax()], there[counts[there].argmin()]
    if counts[largest] < RATIO * counts[smallest]:
        return None
    return (
        f"Warning: the classes are unequal. {class_names[largest]} has {counts[largest]} training images, "
        f"{class_names[smallest]} has {counts[smallest]}. A network trained on them predicts rare classes too seldom: "
        "--config.balance_classes=True gives every class the same weight. Look at the mean per class and at F1, not at "
        "top-1 alone."
    )


def class_weights(config: Config, labels: np.ndarray, classes: int) -> tuple[float, ...]:
    """Return the weight of each class in the loss for training labels int [n]; () for equal weights.

    Raises:
      UserError: the configured weights are invalid.
    """
    weights = config.class_weights
    if config.balance_classes:
        if weights:
            raise UserError("config.balance_classes and config.class_weights exclude each other; set one of them.")
        counts = np.bincount(labels, minlength=classes)
        return tuple(float(weight) for weight in len(labels) / np.maximum(counts, 1) / classes)
    if not weights:
        return ()
    if len(weights) != classes or min(weights) < 0 or max(weights) <= 0:
        raise UserError(
            f"config.class_weights={tuple(weights)} must be {classes} numbers that are not negative, one a "
            "class, and not all zero."
        )
    return tuple(float(weight) for weight in weights)
