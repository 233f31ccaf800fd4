"""Scores without training for the kept activations of every depth."""

import numpy as np

from flax_augtl.features.activations import IMAGES, POOLED, Activations
from flax_augtl.features.views import EVALUATION
from flax_augtl.models import transferability
from flax_augtl.models.augmented import CLASSIFICATION
from flax_augtl.study.context import Context

SCORES = {"logme": transferability.logme, "h_score": transferability.h_score}


def untrained_scores(context: Context, activations: Activations) -> dict[str, dict[str, float]]:
    """Return scores of the training images of the first seed, in their evaluation view.

    Args:
      context: of the study.
      activations: of the training and validation images.

    Returns:
      See `StudyResult.untrained`.
    """
    train, classes = context.datasets[context.grid.seeds[0]].train, len(context.class_names)
    rows, found = activations.rows.of(train.ids, EVALUATION), {}
    for name, array in activations.store.arrays.items():
        if name == IMAGES or name.endswith(POOLED) or name in CLASSIFICATION:
            continue
        pooled = np.stack(
            [np.asarray(array[row], np.float32).reshape(-1, array.shape[-1]).mean(axis=0) for row in rows]
        )
        found[name] = {score: compute(pooled, train.labels, classes) for score, compute in SCORES.items()}
    return found
