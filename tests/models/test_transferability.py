"""Scores without training against their definitions."""

import numpy as np
import pytest

from flax_augtl.models import transferability


@pytest.fixture(scope="module", params=[(40, 6), (12, 20)], ids=["tall", "wide"])
def data(request):
    n, size = request.param
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    return rng.normal(size=(n, size)) + 1.5 * rng.normal(size=(3, size))[labels] + 2, labels


def test_nce_is_the_conditional_entropy_and_leep_with_certain_source_classes():
    rng = np.random.default_rng(0)
    source, labels = rng.integers(0, 4, 50), rng.integers(0, 3, 50)
    counts = np.zeros((4, 3))
    np.add.at(counts, (source, labels), 1)
    share = counts / counts.sum(1, keepdims=True)
    expected = np.mean(np.log(share[source, labels]))
    soft = 0.7 * np.eye(4)[source] + 0.3 / 4
    assert transferability.nce(soft, labels, 3) == pytest.approx(expected)
    assert transferability.leep_score(np.eye(4)[source], labels, 3) == pytest.approx(expected)


def test_leep_is_the_mean_log_likelihood_of_its_predictor():
    theta, labels = np.array([[0.5, 0.5], [0.2, 0.8], [1.0, 0.0]]), np.array([0, 1, 1])
    # P(y = 1 | z): the sums of θ_z over the examples of class 1, divided by those over all.
    first, second = 1.2 / 1.7, 0.8 / 1.3
    likely = [1 - 0.5 * first - 0.5 * second, 0.2 * first + 0.8 * second, first]
    assert transferability.leep_score(theta, labels, 2) == pytest.approx(np.mean(np.log(likely)))


def test_logme_is_the_highest_evidence_of_a_linear_model(data):
    from scipy.optimize import minimize
    from scipy.stats import multivariate_normal

    x, labels = data

    def evidence(logs, y):
        alpha, beta = np.exp(logs)
        covariance = np.eye(len(y)) / beta + x @ x.T / alpha
        return multivariate_normal(np.zeros(len(y)), covariance).logpdf(y) / len(y)

    found = []
    for column in np.eye(3)[labels].T:
        best = minimize(lambda logs, y=column: -evidence(logs, y), [0.0, 0.0], method="Nelder-Mead", tol=1e-9)
        found.append(-best.fun)
        assert transferability.log_evidence(x, column) == pytest.approx(-best.fun, abs=1e-4)
    assert transferability.logme(x, labels, 3) == pytest.approx(np.mean(found), abs=1e-4)


def test_the_h_score_is_the_trace_of_its_definition(data):
    from sklearn.covariance import ledoit_wolf

    x, labels = data
    covariance, share = ledoit_wolf(x)
    means = np.stack([x[labels == label].mean(0) for label in range(3)])[labels]
    between = np.cov(means.T, bias=True)
    expected = np.trace(np.linalg.inv(covariance) @ ((1 - share) * between))
    assert transferability.h_score(x, labels, 3) == pytest.approx(expected, rel=1e-6)


def test_scores_are_higher_for_features_that_separate_and_finite_for_any():
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    noise = rng.normal(size=(30, 5))
    apart = noise + 5 * np.eye(5)[labels]
    for score in (transferability.logme, transferability.h_score):
        assert score(apart, labels, 3) > score(noise, labels, 3)
        assert np.isfinite(score(np.zeros((30, 5)), labels, 4))
        assert np.isfinite(score(np.eye(3)[labels], labels, 3))
