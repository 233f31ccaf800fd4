"""Out-of-fold predictions of a linear head on fixed features: what the other images say about each image.

The head is a ridge regression onto the classes, whose scores a softmax with one temperature turns into probabilities.
It has a closed form, so that it takes seconds where a logistic regression takes minutes, and that finds no more
wrong labels (docs/results.md).
"""

from typing import Any

import numpy as np

from flax_augtl.data import keyed_random

FOLDS = 5
# Penalties relative to the mean variance of a feature direction.
_PENALTIES = 10.0 ** np.arange(-4.0, 3.0, 0.5)


def folds_of(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """Return the fold of every image, int64 [n]; each class is spread evenly, and each group is in one fold.

    Args:
      labels: int [n].
      groups: int [n], such as images that are near-copies of each other.
      folds: number of folds.
      seed: of the division.
    """
    first = np.unique(groups, return_index=True)[1]
    order = first[keyed_random.permutation(len(first), seed, "inspection")]
    order = order[np.argsort(labels[order], kind="stable")]
    fold_of_group = np.zeros(groups.max(initial=-1) + 1, np.int64)
    fold_of_group[groups[order]] = np.arange(len(order)) % folds
    return fold_of_group[groups]


def out_of_fold(features: np.ndarray, labels: np.ndarray, classes: int, fold: np.ndarray) -> np.ndarray:
    """Return class probabilities float32 [n, classes]; those of a fold come from a head fitted on the other folds.

    Args:
      features: float [n, d].
      labels: int [n].
      classes: number of classes.
      fold: int [n], the fold of every image.
    """
    x = np.asarray(features, np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    x = _rotated(x - x.mean(0))
    targets = np.eye(classes)[labels]
    penalty = _penalty(x, targets)
    scores = np.zeros((len(x), classes))
    products, moments = x.T @ x, x.T @ targets
    for number in np.unique(fold):
        held = fold == number
        some, theirs, rest = x[held], targets[held], np.count_nonzero(~held)
        mean, frequency = -some.sum(0) / max(rest, 1), targets[~held].mean(0) if rest else targets.mean(0)
        gram = products - some.T @ some - rest * np.outer(mean, mean)
        moment = moments - some.T @ theirs - rest * np.outer(mean, frequency)
        gram[np.diag_indices(len(gram))] += penalty
        scores[held] = (some - mean) @ np.linalg.solve(gram, moment) + frequency
    return _probabilities(scores, labels)


def _rotated(x: np.ndarray) -> np.ndarray:
    """Return features with the same inner products, [n, min(n, d)]."""
    if x.shape[0] >= x.shape[1]:
        return x
    values, vectors = np.linalg.eigh(x @ x.T)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _penalty(x: np.ndarray, targets: np.ndarray) -> float:
    """Return the penalty with the least squared error when each image is left out; `x` is centred."""
    values, vectors = np.linalg.eigh(x.T @ x)
    values = np.maximum(values, 0.0)
    rotated, centred = x @ vectors, targets - targets.mean(0)
    moments = rotated.T @ centred
    best, chosen = np.inf, 1.0
    for penalty in _PENALTIES * max(values.mean(), 1e-12):
        leverage = (rotated**2 / (values + penalty)).sum(1) + 1 / len(x)
        residual = (centred - rotated @ (moments / (values + penalty)[:, None])) / np.maximum(1 - leverage, 1e-6)[
            :, None
        ]
        error = float((residual**2).mean())
        if error < best:
            best, chosen = error, float(penalty)
    return chosen


def _probabilities(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the softmax of scores, times the number that gives the labels the least log-loss, float32 [n, C]."""
    from scipy.optimize import minimize_scalar  # Slow to import.

    rows = np.arange(len(scores))

    def loss(logarithm: float) -> float:
        scaled = scores * np.exp(logarithm)
        top = scaled.max(1)
        return float(np.mean(np.log(np.exp(scaled - top[:, None]).sum(1)) + top - scaled[rows, labels]))

    best: Any = minimize_scalar(loss, bounds=(-3.0, 7.0), method="bounded")
    scaled = scores * np.exp(best.x)
    exponents = np.exp(scaled - scaled.max(1, keepdims=True))
    return (exponents / exponents.sum(1, keepdims=True)).astype(np.float32)
