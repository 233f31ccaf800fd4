"""Target classifiers in closed form: linear discriminant analysis, ridge regression, and nearest class means.

Each is one linear layer on the penultimate features, so that it is evaluated, exported and loaded like a trained one.
"""

import math

import numpy as np

from flax_augtl.config.heads import CLASS_MEANS, LDA, HeadSettings
from flax_augtl.models.head import normalised

# Penalties of ridge regression, divided by the mean variance of a feature, among which leave-one-out chooses.
PENALTIES = tuple(10.0 ** (power / 2) for power in range(-8, 9))
# A class without examples gets a logit that is lower by so much.
ABSENT = 1e4
_TINY = np.finfo(np.float64).tiny

Layer = dict[str, np.ndarray]


def fit_classifier(settings: HeadSettings, features: np.ndarray, labels: np.ndarray, num_classes: int) -> Layer:
    """Return the target classifier that `settings.fit` asks for.

    Args:
      settings: of the head.
      features: penultimate features of the training examples, float [n, D].
      labels: int [n].
      num_classes: of the target task.

    Returns:
      `kernel` float32 [D, C] and `bias` float32 [C]. They read the features as `settings.norm` normalises them.
    """
    x = np.asarray(features, np.float64)
    if settings.norm != "none":
        x = np.asarray(normalised(settings, np.asarray(features, np.float32)), np.float64)
    labels = np.asarray(labels)
    if settings.fit == LDA:
        kernel, bias = lda(x, labels, num_classes, settings.strength)
    elif settings.fit == CLASS_MEANS:
        kernel, bias = class_means(x, labels, num_classes)
    else:
        kernel, bias = ridge(x, labels, num_classes, settings.strength)
    return {"kernel": np.asarray(kernel, np.float32), "bias": np.asarray(bias, np.float32)}


def loss(layer: Layer, settings: HeadSettings, features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy of a classifier on examples."""
    x = normalised(settings, features) if settings.norm != "none" else np.asarray(features, np.float32)
    return float(np.mean(_cross_entropy(np.asarray(x @ layer["kernel"] + layer["bias"], np.float64), labels)))


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


def _means(x: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each class, [C, D], and its number of examples, [C]; 0 where a class has none."""
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    sums = np.zeros((num_classes, x.shape[1]))
    np.add.at(sums, labels, x)
    return sums / np.maximum(counts, 1)[:, None], counts


def _variance(residuals: np.ndarray, means: np.ndarray) -> float:
    """Return the mean variance of a feature within a class; with one example a class, that of the means."""
    return float(np.square(residuals).mean() or np.square(means).mean() or 1.0)


def shrinkage(residuals: np.ndarray) -> float:
    """Return the share of the identity by which Ledoit and Wolf shrink the covariance of residuals with mean 0.

    Ledoit, Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of Multivariate
    Analysis 88 (2004).

    Args:
      residuals: float64 [n, D].
    """
    n, size = residuals.shape
    squares = np.square(residuals)
    mean = squares.sum() / (n * size)
    gram = residuals.T @ residuals if size <= n else residuals @ residuals.T
    of_squares = np.square(gram).sum() / n**2
    noise = (np.square(squares.sum(axis=1)).sum() / n - of_squares) / n
    distance = of_squares - size * mean**2
    return float(min(max(noise, 0.0), distance) / distance) if distance > 0 else 1.0


def lda(
    x: np.ndarray, labels: np.ndarray, num_classes: int, strength: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return linear discriminant analysis: kernel [D, C] and bias [C], whose softmax is the posterior of the classes.

    All classes have one covariance, that of the residuals of all examples from the means of their classes, shrunk towards
    a multiple of the identity. The prior of a class is its frequency.

    Args:
      x: float64 [n, D].
      labels: int [n].
      num_classes: of the target task.
      strength: the shrinkage, in [0, 1]; None for Ledoit and Wolf's.
    """
    from scipy import linalg

    centre = x.mean(axis=0)
    x = x - centre  # The differences of large numbers would lose digits.
    means, counts = _means(x, labels, num_classes)
    residuals = x - means[labels]
    share = shrinkage(residuals) if strength is None else strength
    covariance = (1 - share) * (residuals.T @ residuals / len(x))
    # Features that vary in no class have no inverse.
    covariance[np.diag_indices_from(covariance)] += max(share, 1e-9) * _variance(residuals, means)
    kernel = linalg.solve(covariance, means.T, assume_a="pos")
    priors = np.log(np.maximum(counts, 0.5) / len(x))
    bias = priors - 0.5 * np.sum(means.T * kernel, axis=0)
    return kernel, bias - centre @ kernel


def class_means(x: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest class mean: kernel [D, C] and bias [C], with logits −‖x − mean‖² / 2v, up to a common number.

    v is the mean variance of a feature within a class.
    """
    centre = x.mean(axis=0)
    means, counts = _means(x - centre, labels, num_classes)
    variance = _variance(x - centre - means[labels], means)
    kernel = means.T / variance
    bias = -0.5 * np.square(means).sum(axis=1) / variance - ABSENT * (counts == 0)
    return kernel, bias - centre @ kernel


def ridge(
    x: np.ndarray, labels: np.ndarray, num_classes: int, strength: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return ridge regression on one-hot labels: kernel [D, C] and bias [C], which is not penalised.

    The regression gives scores near 0 and 1. They are multiplied by the number that minimises the cross-entropy of the
    leave-one-out scores, so that their softmax is a probability.

    Args:
      x: float64 [n, D].
      labels: int [n].
      num_classes: of the target task.
      strength: the penalty divided by the mean variance of a feature; None for that among `PENALTIES` with the best
        leave-one-out accuracy, then the lowest squared error.
    """
    centre, targets = x.mean(axis=0), np.eye(num_classes)[labels]
    x, frequency = x - centre, targets.mean(axis=0)
    left, singular, right = _thin_svd(x)
    rotated = left.T @ (targets - frequency)
    unit = np.square(singular).sum() / x.shape[1] or 1.0

    def scores(penalty: float) -> np.ndarray:
        """Return the score of each example in a regression without it, [n, C]."""
        kept = np.square(singular) / (np.square(singular) + penalty * unit)
        fitted = frequency + left @ (kept[:, None] * rotated)
        leverage = 1 / len(x) + np.square(left) @ kept
        return targets - (targets - fitted) / np.maximum(1 - leverage, 1e-9)[:, None]

    def merit(penalty: float) -> tuple[float, float]:
        found = scores(penalty)
        return float(np.mean(found.argmax(axis=1) == labels)), -float(np.square(found - targets).mean())

    penalty = max(PENALTIES, key=merit) if strength is None else strength
    kernel = right.T @ ((singular / (np.square(singular) + penalty * unit))[:, None] * rotated)
    factor = _sharpness(scores(penalty), labels)
    return factor * kernel, factor * (frequency - centre @ kernel)


def _thin_svd(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return U [n, r], s [r] and V [r, D] of a matrix of rank r, by the eigenvalues of its smaller Gram matrix."""
    from scipy import linalg

    tall = x.shape[0] >= x.shape[1]
    values, vectors = linalg.eigh(x.T @ x if tall else x @ x.T)
    kept = values > max(values[-1], _TINY) * 1e-10
    singular, vectors = np.sqrt(values[kept]), vectors[:, kept]
    if tall:
        return x @ vectors / singular, singular, vectors.T
    return vectors, singular, (x.T @ vectors / singular).T


def _sharpness(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the factor of scores with the lowest cross-entropy, between 1 and 1000."""
    from scipy import optimize

    found = optimize.minimize_scalar(
        lambda power: float(np.mean(_cross_entropy(scores * math.exp(power), labels))),
        bounds=(0.0, math.log(1000)),
        method="bounded",
    )
    return math.exp(float(found.x))
