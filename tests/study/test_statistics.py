"""Statistics over paired seeds, against SciPy and closed forms."""

import numpy as np
import pytest
from scipy import stats

from flax_augtl.study.statistics import mean_interval, sign_flip_p


def test_the_interval_is_students():
    values = np.random.default_rng(0).normal(size=6)
    mean, low, high = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_one_value_has_no_interval():
    mean, low, high = mean_interval([0.5])
    assert mean == 0.5 and np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize(("differences", "p"), [
    ([1, 1, 1, 1, 1, 1], 2 / 2**6),  # The least that six pairs can show.
    ([1, 2], 0.5),
    ([0, 0, 0], 1.0),
    ([3, -1], 1.0),  # All sums are 2 or 4 in size.
    ([3, 1, -1], 0.75),  # Sums of 1, 3, 3, 5 and their negatives: at least 3 in six of eight.
])
def test_sign_flip_in_closed_form(differences, p):
    assert sign_flip_p(differences) == pytest.approx(p)


def test_sign_flip_is_scipys_permutation_test():
    values = np.random.default_rng(0).normal(0.5, 1, 8)
    test = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(values) == pytest.approx(test.pvalue)
