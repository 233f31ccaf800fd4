"""Intervals and paired tests over images, against SciPy and closed forms."""

import numpy as np
import pytest
from scipy import stats

from flax_augtl.training.intervals import confusion_intervals, image_interval, paired_p


def right_of(right, n):
    return (np.arange(n) < right).astype(float)


def test_134_of_160_images_is_scipys_bootstrap():
    mean, low, high = image_interval(right_of(134, 160), np.ones(160))
    expected = stats.bootstrap((right_of(134, 160),), np.mean, n_resamples=50_000, rng=np.random.default_rng(1))
    assert mean == 134 / 160
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=1 / 160)
    assert (low, high) == pytest.approx((0.77, 0.89), abs=0.01)
    assert image_interval(right_of(134, 160), np.ones(160)) == (mean, low, high)


@pytest.mark.parametrize(("right", "n"), [(20, 20), (0, 20)])
def test_where_all_images_agree_the_ends_are_those_of_the_binomial(right, n):
    expected = stats.binomtest(right, n).proportion_ci()
    assert image_interval(right_of(right, n), np.ones(n))[1:] == pytest.approx((expected.low, expected.high))


def test_equal_networks_may_still_differ_on_other_images():
    assert image_interval(np.zeros(20), np.ones(20), lowest=-1.0) == pytest.approx((0, -0.168433, 0.168433), abs=1e-6)


def test_several_seeds_are_drawn_with_their_image():
    """Three seeds that say the same of every image are worth no more images than one."""
    one = right_of(134, 160)
    assert image_interval(3 * one, np.full(160, 3.0)) == pytest.approx(image_interval(one, np.ones(160)))


def test_the_mean_over_classes_draws_within_each_class():
    labels, right = np.repeat([0, 1], [100, 10]), np.concatenate([right_of(90, 100), right_of(5, 10)])
    mean, low, high = image_interval(right, np.ones(110), labels)
    expected = stats.bootstrap(
        (right[:100], right[100:]),
        lambda a, b, axis=-1: (a.mean(axis) + b.mean(axis)) / 2,
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(1),
    )
    assert mean == pytest.approx((0.9 + 0.5) / 2)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=0.02)
    # Ten images of the small class make it far wider than the plain accuracy of 110 images.
    _, plain_low, plain_high = image_interval(right, np.ones(110))
    assert high - low > 2 * (plain_high - plain_low)


def test_the_interval_of_a_confusion_matrix_is_that_of_its_images():
    confusion = np.array([[90.0, 10, 0], [5, 5, 0], [0, 0, 0]])
    found = confusion_intervals(confusion)
    labels = np.repeat([0, 1], [100, 10])
    right = np.concatenate([right_of(90, 100), right_of(5, 10)])
    assert found == {
        "top1": list(image_interval(right, np.ones(110))[1:]),
        "mean_per_class": list(image_interval(right, np.ones(110), labels)[1:]),
    }


def test_no_image_has_no_interval():
    assert np.isnan(image_interval([], [])).all()


@pytest.mark.parametrize(("better", "worse"), [(10, 3), (6, 0), (4, 4), (0, 5), (1, 0)])
def test_of_two_networks_it_is_the_exact_mcnemar_test(better, worse):
    differences = [1] * better + [-1] * worse + [0] * 50
    assert paired_p(differences) == pytest.approx(stats.binomtest(better, better + worse).pvalue)


def test_networks_that_never_differ_show_nothing():
    assert paired_p([0, 0, 0]) == 1.0 == paired_p([])


def test_of_several_seeds_it_is_scipys_permutation_test():
    differences = [2, 2, 1, -1, 3, 1, 0, 1, -2, 1]
    test = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert paired_p(differences) == pytest.approx(test.pvalue)


def test_unequal_weights_are_scipys_permutation_test_too():
    differences, weights = np.array([2, 2, 1, -1, 3, 1, 0, 1, -2, 1]), np.repeat([0.1, 0.25], 5)
    test = stats.permutation_test((weights * differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert paired_p(differences, weights) == pytest.approx(test.pvalue, abs=0.01)
