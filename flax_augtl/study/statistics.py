"""Statistics over paired seeds."""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of some values, and the lower and upper end of its Student-t interval.

    The ends are NaN for fewer than two values.
    """
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, mean - float(half), mean + float(half)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of the mean of paired differences under all 2^n flips of their signs (exact).

    With n pairs it cannot be under 2 / 2^n: six pairs are the least that can show p < 0.05.
    """
    differences = np.asarray(differences, np.float64)
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(differences))))
    means = np.abs(signs @ differences)
    return float(np.mean(means >= abs(differences.sum()) - 1e-12))
