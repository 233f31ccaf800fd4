"""How far an image is from the training data: three ways, of which `docs/results.md` compares what they find.

Each is a dataclass of arrays and numbers, so that it can be kept in one file.
"""

import dataclasses
import math
from typing import ClassVar, Protocol

import numpy as np

from flax_augtl.errors import UserError

# A larger file is not kept.
MOST_BYTES = 20_000_000
_RANK = 256
_ROWS = 1024


class Distance(Protocol):
    """A way to tell how far images are from the training data."""

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the distance of each image, float64 [N], from its features [N, D] and logits [N, classes]."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Mahalanobis:
    """The distance to the nearest class mean, in standard deviations of the images of a class around their mean.

    All classes share one covariance, shrunk by Ledoit and Wolf's method. Beyond its largest eigenvalues, it is the same
    in all directions. Features are scaled to length 1 before.

    Attributes:
      means: float [classes, D].
      basis: float [D, r], the directions of the largest eigenvalues.
      variances: float32 [r], the eigenvalues.
      rest: the variance in each other direction.
    """

    NAME: ClassVar[str] = "mahalanobis"

    means: np.ndarray
    basis: np.ndarray
    variances: np.ndarray
    rest: float

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the distance of each image."""
        means, basis = self.means.astype(np.float64), self.basis.astype(np.float64)
        centre = means.mean(axis=0)  # Squares of large numbers would cancel.
        near, found = (means - centre) @ basis, []
        for start in range(0, len(features), _ROWS):
            x = unit(features[start : start + _ROWS]) - centre
            inside = x @ basis
            squares = _squares(x, means - centre)  # To every mean, in all directions.
            part = _squares(inside, near)
            scaled = _squares(inside / np.sqrt(self.variances), near / np.sqrt(self.variances))
            found.append(np.sqrt((scaled + np.maximum(squares - part, 0.0) / self.rest).min(axis=1)))
        return np.concatenate(found) if found else np.zeros(0)


def fit_mahalanobis(features: np.ndarray, labels: np.ndarray, rank: int = _RANK) -> Mahalanobis:
    """Fit class means and their shared covariance.

    Args:
      features: float32 [N, D] of training images.
      labels: int [N].
      rank: number of eigenvalues to keep, at most.

    Raises:
      UserError: there are too many classes and features to keep.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage  # Slow to import.

    x, present = unit(features), np.unique(labels)
    size = x.shape[1]
    rank = min(rank, size)
    if 2 * size * (len(present) + rank) > MOST_BYTES:
        raise UserError(f"the means of {len(present)} classes of {size} features are too large to keep")
    means = np.stack([x[labels == label].mean(axis=0) for label in present])
    around = x - means[np.searchsorted(present, labels)]
    # `around` has as many degrees of freedom less as there are means.
    freedom = max(len(x) - len(present), 1)
    shrinkage = float(ledoit_wolf_shrinkage(around, assume_centered=True))
    total = float((around**2).sum() / freedom)
    if total == 0:
        raise UserError("the features of all images of a class are the same")
    basis, values = _largest(around, rank)
    variances = (1 - shrinkage) * values / freedom + shrinkage * total / size
    left = size - len(variances)
    rest = max(total - float(variances.sum()), 0.0) / left if left else 1.0
    rest = max(rest, shrinkage * total / size, 1e-6 * total / size)
    kind = np.float32 if 4 * size * (len(present) + rank) <= MOST_BYTES else np.float16
    return Mahalanobis(
        means.astype(kind), basis.astype(kind), np.maximum(variances, 1e-6 * total / size).astype(np.float32), rest
    )


def _largest(x: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvectors [D, rank] of the largest eigenvalues of xᵀx, and these."""
    if min(x.shape) <= 1024:
        _, values, vectors = np.linalg.svd(x, full_matrices=False)
    else:
        from sklearn.utils.extmath import randomized_svd

        _, values, vectors = randomized_svd(x, rank, random_state=0)
    return vectors[:rank].T, values[:rank] ** 2


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbours:
    """The distance to the k-th nearest of the training images, between features that are scaled to length 1.

    Attributes:
      bank: float16 [M, D].
      k: which neighbour.
    """

    NAME: ClassVar[str] = "neighbours"

    bank: np.ndarray
    k: int = 5

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the distance of each image."""
        bank, found = self.bank.astype(np.float32), []
        for start in range(0, len(features), _ROWS):
            squares = _squares(unit(features[start : start + _ROWS]), bank)
            found.append(np.sqrt(np.maximum(np.partition(squares, self.k - 1, axis=1)[:, self.k - 1], 0.0)))
        return np.concatenate(found) if found else np.zeros(0)


def fit_neighbours(features: np.ndarray, k: int = 5) -> Neighbours:
    """Keep training images, evenly spaced ones if not all fit."""
    most = MOST_BYTES // (2 * features.shape[1])
    rows = np.unique(np.linspace(0, len(features) - 1, min(most, len(features))).astype(np.int64))
    return Neighbours(unit(features[rows]).astype(np.float16), min(k, len(rows)))


@dataclasses.dataclass(frozen=True, eq=False)
class Energy:
    """The negative logarithm of the sum of exponentials of the logits (Liu et al. 2020); nothing is fitted."""

    NAME: ClassVar[str] = "energy"

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the energy of each image."""
        logits = np.asarray(logits, np.float64)
        top = logits.max(axis=1)
        return -(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)))


def unit(features: np.ndarray) -> np.ndarray:
    """Return rows scaled to length 1, float64; a row of zeros stays."""
    features = np.asarray(features, np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the squared distances of all rows of two matrices [N, D] and [M, D]."""
    found = (x**2).sum(axis=1)[:, None] - 2 * x @ y.T + (y**2).sum(axis=1)
    return np.maximum(found, 0.0)


def is_finite(values: np.ndarray) -> bool:
    """Return whether all values are finite."""
    return math.isfinite(float(np.sum(values)))
