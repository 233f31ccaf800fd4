"""Intervals and paired tests over images: how much an accuracy would differ on other images like these.

They do not cover the variance between trainings; several seeds do (`training.statistics`).
"""

import functools
import math

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 10_000
FLIPS = 20_000


def image_interval(
    right: ArrayLike,
    tested: ArrayLike,
    strata: ArrayLike | None = None,
    *,
    lowest: float = 0.0,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """Return an accuracy and the ends of its bias-corrected and accelerated (BCa) bootstrap interval over images.

    Images are resampled together with the predictions of all networks. The same values give the same interval. If all
    images agree, resampling shows no spread; the interval is then the exact binomial one.

    Args:
      right: number of networks that predict each image correctly; for a difference, how many more do than of the others.
      tested: number of networks that predicted each image.
      strata: class of each image, for a mean over classes, whose sizes are kept; None for the plain accuracy.
      lowest: the smallest possible value; −1 for differences.
      confidence: confidence of the interval.
    """
    rights, counts = np.asarray(right, np.float64), np.asarray(tested, np.float64)
    classes = np.zeros(len(rights), np.int64) if strata is None else np.asarray(strata, np.int64)
    return _interval(rights.tobytes(), counts.tobytes(), classes.tobytes(), lowest, confidence)


@functools.lru_cache(maxsize=1024)  # A report shows the same figures several times.
def _interval(
    right_bytes: bytes, tested_bytes: bytes, strata_bytes: bytes, lowest: float, confidence: float
) -> tuple[float, float, float]:
    from scipy.special import ndtr, ndtri  # Slow to import.

    right, tested = np.frombuffer(right_bytes, np.float64), np.frombuffer(tested_bytes, np.float64)
    strata = np.frombuffer(strata_bytes, np.int64)
    if not len(right):
        return math.nan, math.nan, math.nan
    tail, rng = (1 - confidence) / 2, np.random.default_rng(0)
    order = np.argsort(strata, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(strata[order])) + 1)
    mean, drawn, square, cube = 0.0, np.zeros(RESAMPLES), 0.0, 0.0
    for part in parts:
        kinds, counts = np.unique(np.stack([right[part], tested[part]], axis=1), axis=0, return_counts=True)
        share = counts @ kinds[:, 0] / (counts @ kinds[:, 1])
        mean += share / len(parts)
        if len(kinds) > 1:
            some = rng.multinomial(len(part), counts / len(part), size=RESAMPLES)
            drawn += some @ kinds[:, 0] / (some @ kinds[:, 1]) / len(parts)
        else:
            drawn += share / len(parts)
        influence = (kinds[:, 0] - share * kinds[:, 1]) / (counts @ kinds[:, 1]) / len(parts)
        square, cube = square + counts @ influence**2, cube + counts @ influence**3
    if square < 1e-20:
        # The largest share of disagreeing images that is compatible with none among these n.
        unseen = 1 - tail ** (1 / len(right))
        return float(mean), float(max(lowest, mean - unseen)), float(min(1.0, mean + unseen))
    below = np.mean(drawn < mean - 1e-12) / 2 + np.mean(drawn < mean + 1e-12) / 2
    bias, skew = ndtri(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES)), cube / (6 * square**1.5)
    shifted = bias + ndtri(np.array([tail, 1 - tail]))
    low, high = np.quantile(drawn, ndtr(bias + shifted / (1 - skew * shifted)))
    return float(mean), float(low), float(high)


def confusion_intervals(confusion: np.ndarray) -> dict[str, list[float]]:
    """Return the 95 % intervals over images of one network's `top1` and `mean_per_class`.

    Args:
      confusion: counts [C, C], one row per label and one column per prediction.
    """
    confusion = np.asarray(confusion, np.float64).round().astype(np.int64)
    labels = np.repeat(np.arange(len(confusion)), confusion.sum(axis=1))
    right = np.concatenate([np.arange(row.sum()) < row[index] for index, row in enumerate(confusion)])
    ones = np.ones(len(labels))
    return {
        name: list(image_interval(right, ones, strata)[1:])
        for name, strata in (("top1", None), ("mean_per_class", labels))
    }


def paired_p(differences: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the two-sided p of a sum of paired differences, one per image, under flips of their signs.

    For two networks on the same images, whose differences are −1, 0 and 1, this is the exact McNemar test. It is exact
    for equal weights; for others it draws 20,000 flips from a fixed seed.

    Args:
      differences: per image, how many more networks of one group than of the other are right.
      weights: weights of the images in the sum; None for equal weights.
    """
    each = np.asarray(differences, np.int64)
    shares = np.ones(len(each)) if weights is None else np.asarray(weights, np.float64)
    differs = each != 0
    each, shares = each[differs], shares[differs]
    if not len(each):
        return 1.0
    if np.ptp(shares) > 1e-9 * shares.max():
        return _drawn_p(each, shares)
    return _exact_p(each)


def _exact_p(differences: np.ndarray) -> float:
    from scipy import signal, stats

    sums = np.ones(1)  # Probabilities of the sums −reach, −reach + 1, …, reach.
    for size, count in zip(*np.unique(np.abs(differences), return_counts=True), strict=True):
        own = np.zeros(2 * size * count + 1)
        own[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        sums = own if len(sums) == 1 else np.maximum(signal.fftconvolve(sums, own), 0)
    reach = len(sums) // 2
    far = abs(int(differences.sum()))
    return float(min(1.0, sums[np.abs(np.arange(-reach, reach + 1)) >= far].sum()))


def _drawn_p(differences: np.ndarray, weights: np.ndarray) -> float:
    rng, sums = np.random.default_rng(0), np.zeros(FLIPS)
    for size, count in zip(*np.unique(np.abs(differences) * weights, return_counts=True), strict=True):
        sums += size * (2 * rng.binomial(count, 0.5, FLIPS) - count)
    far = abs(differences @ weights)
    # The observed signs count as one flip, so that p is never zero.
    return float((1 + np.sum(np.abs(sums) >= far * (1 - 1e-9))) / (FLIPS + 1))
