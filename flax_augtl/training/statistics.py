"""Statistics over seeds: intervals of a mean, and tests of paired differences."""

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

RESAMPLES = 50_000
EXACT_PAIRS = 16


def bca_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of some values and the ends of its bias-corrected and accelerated (BCa) bootstrap interval.

    The same values give the same ends. The ends are NaN for fewer than two values, and the mean for equal values.
    """
    return _bca_interval(tuple(map(float, values)), confidence)


@functools.lru_cache(maxsize=4096)  # A report shows the same figures several times.
def _bca_interval(each: tuple[float, ...], confidence: float) -> tuple[float, float, float]:
    values = np.asarray(each, np.float64)
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    # Differences of equal accuracies are zero up to rounding, so that resampling shows no spread.
    if np.ptp(values) <= 1e-12 * max(1.0, np.abs(values).max()):
        return mean, mean, mean
    result = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        method="BCa",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return mean, float(result.confidence_interval.low), float(result.confidence_interval.high)


def smallest_p(pairs: int) -> float:
    """Return the smallest p that a sign-flip test of n pairs can have: 2 / 2^n, and 1 without pairs."""
    return min(1.0, 2.0 / 2.0**pairs)


def holm(values: Sequence[float]) -> list[float]:
    """Return the p values of a family of tests, adjusted by Holm's step-down method."""
    adjusted, least = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        least = max(least, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = least
    return adjusted


def sign_flip_p(differences: ArrayLike) -> float:
    """Return the two-sided p of the mean of paired differences under flips of their signs.

    Up to 16 pairs, the test is exact: it takes all 2^n flips. Above, it draws 65536 flips from a fixed seed. The
    smallest p of n pairs is 2 / 2^n, so that p < 0.05 needs six pairs.
    """
    each = np.asarray(differences, np.float64)
    pairs = len(each)
    if not pairs:
        return 1.0
    if pairs > EXACT_PAIRS:
        signs = np.random.default_rng(0).choice((1.0, -1.0), size=(2**EXACT_PAIRS, pairs))
        signs[0] = 1.0  # The observed signs count as one flip, so that p is never zero.
    else:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=pairs)))
    means = np.abs(signs @ each)
    # scipy.stats.permutation_test has no such tolerance: where a mean is zero up to rounding, its p is below 1.
    return float(np.mean(means >= abs(each.sum()) - 1e-12))
