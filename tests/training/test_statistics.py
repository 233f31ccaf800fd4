"""Statistics over paired seeds, against SciPy and closed forms."""

import numpy as np
import pytest
from scipy import stats

from flax_augtl.training.statistics import bca_interval, holm, sign_flip_p, smallest_p


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 1, 1, 1, 1, 1], 2 / 2**6),  # The least that six pairs can show.
        ([1, 2], 0.5),
        ([0, 0, 0], 1.0),
        ([0.05, 0.02, 0.01, -0.05, 0.04, 0.03, -0.05, -0.05], 1.0),  # Their sum is zero, but -7e-18 in floating point.
        ([3, -1], 1.0),  # All sums are 2 or 4 in size.
        ([3, 1, -1], 0.75),  # Sums of 1, 3, 3, 5 and their negatives: at least 3 in six of eight.
    ],
)
def test_sign_flip_in_closed_form(differences, p):
    assert sign_flip_p(differences) == pytest.approx(p)


def test_sign_flip_is_scipys_permutation_test():
    values = np.random.default_rng(0).normal(0.5, 1, 8)
    test = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(values) == pytest.approx(test.pvalue)


def test_bca_is_scipys_bootstrap():
    values = np.random.default_rng(1).gamma(2.0, size=20)
    mean, low, high = bca_interval(values)
    expected = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=50_000, rng=np.random.default_rng(5))
    assert mean == pytest.approx(values.mean()) and low < mean < high
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), rel=0.03)
    assert bca_interval(values) == (mean, low, high)


def test_bca_of_skewed_values_leans_to_the_long_tail():
    """Unlike Student's interval, which is symmetric."""
    mean, low, high = bca_interval([0, 0, 0, 0, 0, 0, 0, 10])
    assert high - mean > 1.5 * (mean - low)


def test_bca_of_one_hundred_normal_values_is_the_normal_interval():
    values = np.random.default_rng(2).normal(size=200)
    _, low, high = bca_interval(values, 0.9)
    half = 1.645 * values.std() / np.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.0] * 6, [0.1 + 0.2, 0.3, 0.3]])
def test_bca_of_equal_values_is_their_value(values):
    assert bca_interval(values) == pytest.approx((values[0],) * 3)


@pytest.mark.parametrize("values", [[], [0.7]])
def test_bca_of_too_few_values_has_no_ends(values):
    mean, low, high = bca_interval(values)
    assert np.isnan(low) and np.isnan(high) and (mean == 0.7 if values else np.isnan(mean))


@pytest.mark.parametrize("values", [[0.1, 0.2], [0, 0, 1], [0, 0, 0, 0, 0, 1e-6], [0.9, 0.9, 0.91, 0.9]])
def test_bca_of_few_values_lies_within_them(values):
    mean, low, high = bca_interval(values)
    assert min(values) <= low <= mean <= high <= max(values)


def test_the_smallest_p_is_reached_where_all_signs_agree():
    assert [smallest_p(pairs) for pairs in (0, 1, 5, 6)] == [1.0, 1.0, 0.0625, 0.03125]
    assert (
        all(sign_flip_p(range(1, pairs + 1)) == smallest_p(pairs) for pairs in range(1, 9)) and sign_flip_p([]) == 1.0
    )


def test_holm_in_closed_form():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0]) and holm([]) == [] and holm([0.031]) == [0.031]


def test_sign_flips_of_many_pairs_are_drawn():
    values = np.random.default_rng(3).normal(0.3, 1, 30)
    test = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=200_000, rng=np.random.default_rng(4)
    )
    assert sign_flip_p(values) == pytest.approx(test.pvalue, abs=0.01) and sign_flip_p([1.0] * 40) == 1 / 2**16
