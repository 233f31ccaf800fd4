"""Scores of how well features or source classes predict a target task, without any training; higher is better."""

import math

import numpy as np

from flax_augtl.models.closed_form import shrinkage
from flax_augtl.models.leep import conditional, predict

_TINY = np.finfo(np.float64).tiny


def leep_score(probabilities: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """Return LEEP: the mean log-likelihood of the labels under LEEP's predictor, estimated on the same examples.

    Nguyen, Hassner, Seeger, Archambeau, ICML 2020 (arXiv 2002.12462).

    Args:
      probabilities: θ(x), float [n, Z], of the source classes.
      labels: int [n], of the target task.
      num_classes: of the target task.
    """
    likely = predict(probabilities, conditional(probabilities, labels, num_classes))
    return float(np.mean(np.log(np.maximum(likely[np.arange(len(labels)), labels], _TINY))))


def nce(probabilities: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """Return NCE, the negative conditional entropy −H(label | most likely source class).

    Tran, Nguyen, Hassner, "Transferability and Hardness of Supervised Classification Tasks", ICCV 2019 (arXiv 1908.08142).
    It is LEEP with the most likely source class alone; the arguments are those of `leep_score`.
    """
    size = probabilities.shape[1]
    return leep_score(np.eye(size)[probabilities.argmax(axis=1)], labels, num_classes)


def log_evidence(x: np.ndarray, y: np.ndarray) -> float:
    """Return the log-evidence per example, maximised over both precisions, of Bayesian linear regression of y [n] on x.

    You, Liu, Wang, Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML 2021 (arXiv
    2102.11005).

    Args:
      x: float64 [n, D].
      y: float64 [n].
    """
    return _evidence(*_spectrum(x), np.asarray(y, np.float64))


def _spectrum(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return U [n, r] and the squares of the singular values [r]."""
    left, singular, _ = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    squares = np.square(singular)
    kept = squares > 1e-12 * squares.max(initial=_TINY)
    return left[:, kept], squares[kept]


def _evidence(left: np.ndarray, squares: np.ndarray, y: np.ndarray) -> float:
    n, rotated = len(y), np.square(left.T @ y)
    outside = max(float(y @ y - rotated.sum()), 0.0)
    alpha = beta = 1.0
    lowest = 1e-12 * squares.max(initial=_TINY)
    for _ in range(100):
        ratio = max(alpha / beta, lowest)
        used = float(np.sum(squares / (squares + ratio)))
        weights = float(np.sum(squares * rotated / np.square(squares + ratio)))
        errors = float(np.sum(rotated / np.square(1 + squares / ratio))) + outside
        alpha, beta = max(used, 1e-12) / max(weights, 1e-12), max(n - used, 1e-12) / max(errors, 1e-12)
        if abs(alpha / beta - ratio) <= 1e-5 * ratio:
            break
    return log_evidence_at(squares, rotated, outside, n, alpha, beta)


def log_evidence_at(
    squares: np.ndarray, rotated: np.ndarray, outside: float, n: int, alpha: float, beta: float
) -> float:
    """Return log N(y; 0, I / beta + x xᵀ / alpha) / n.

    Args:
      squares: squared singular values of x, [r].
      rotated: squared coefficients of y in the left singular vectors, [r].
      outside: squared norm of the rest of y.
      n: number of examples.
      alpha: precision of the weights.
      beta: precision of the noise.
    """
    variances = 1 / beta + squares / alpha
    rest = n - len(squares)
    found = np.sum(np.log(variances) + rotated / variances) - rest * math.log(beta) + outside * beta
    return float(-0.5 * (found + n * math.log(2 * math.pi)) / n)


def logme(features: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """Return LogME: the mean of `log_evidence` over the one-hot columns of the labels.

    Args:
      features: float [n, D].
      labels: int [n].
      num_classes: of the target task.
    """
    left, squares = _spectrum(features)
    targets = np.eye(num_classes)[labels]
    return float(np.mean([_evidence(left, squares, column) for column in targets.T]))


def h_score(features: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """Return the regularised H-score tr(S⁻¹ (1 − s) B): B is the covariance of the class means, S the shrunk covariance.

    Ibrahim, Ponomareva, Mazumder, "Newer is not always better: Rethinking transferability metrics", ECML 2022 (arXiv
    2110.06893). s is Ledoit and Wolf's shrinkage. The arguments are those of `logme`.
    """
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0)
    share, mean = shrinkage(x), float(np.square(x).mean())
    if mean == 0:
        return 0.0
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.eye(num_classes)[labels].T @ x
    # B = Mᵀ M with a row for each class: √(count / n) · mean of the class.
    means = sums / np.sqrt(np.maximum(counts, 1) * len(x))[:, None]
    covariance = (1 - share) * (x.T @ x / len(x)) + share * mean * np.eye(x.shape[1])
    return float((1 - share) * np.sum(means.T * np.linalg.lstsq(covariance, means.T, rcond=None)[0]))
