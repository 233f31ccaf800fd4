"""A warning if some classes have far fewer training images than others."""

from collections.abc import Sequence

import numpy as np

from flax_augtl.config.schema import Config

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
