"""Heads in closed form: against scikit-learn, and against their definitions."""

import numpy as np
import pytest

from flax_augtl.config.heads import HeadSettings, head_settings
from flax_augtl.errors import UserError
from flax_augtl.models import closed_form


@pytest.fixture(scope="module", params=[(60, 8), (24, 40)], ids=["tall", "wide"])
def data(request):
    n, size = request.param
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(n) % 4)
    mixing = rng.normal(size=(size, size))
    x = rng.normal(size=(n, size)) @ mixing + 2 * rng.normal(size=(4, size))[labels] + 5
    return x.astype(np.float32).astype(np.float64), labels


def probabilities(layer, x):
    logits = x @ np.asarray(layer[0]) + np.asarray(layer[1])
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_lda_is_that_of_scikit_learn(data, share):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, labels = data
    other = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=share).fit(x, labels)
    np.testing.assert_allclose(
        probabilities(closed_form.lda(x, labels, 4, share), x), other.predict_proba(x), atol=1e-8
    )


def test_the_shrinkage_is_that_of_scikit_learn(data):
    from sklearn.covariance import ledoit_wolf_shrinkage

    x, labels = data
    means = np.stack([x[labels == label].mean(0) for label in range(4)])
    residuals = x - means[labels]
    expected = ledoit_wolf_shrinkage(residuals, assume_centered=True)
    assert 0 < expected < 1 and closed_form.shrinkage(residuals) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(closed_form.lda(x, labels, 4)[0], closed_form.lda(x, labels, 4, expected)[0], rtol=1e-6)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_ridge_is_that_of_scikit_learn_times_a_number(data, strength):
    from sklearn.linear_model import Ridge

    x, labels = data
    penalty = strength * np.square(x - x.mean(0)).sum() / x.shape[1]
    other = Ridge(penalty).fit(x, np.eye(4)[labels])
    kernel, bias = closed_form.ridge(x, labels, 4, strength)
    factor = kernel[0, 0] / other.coef_[0, 0]
    assert factor > 1
    np.testing.assert_allclose(kernel, factor * other.coef_.T, atol=1e-7 * np.abs(kernel).max())
    np.testing.assert_allclose(bias, factor * other.intercept_, rtol=1e-6)


def test_ridge_chooses_the_penalty_with_the_most_right_when_each_example_is_left_out(data):
    from sklearn.linear_model import Ridge

    x, labels = data
    unit = np.square(x - x.mean(0)).sum() / x.shape[1]

    def merit(strength):
        left_out = np.stack(
            [
                Ridge(strength * unit).fit(np.delete(x, i, 0), np.eye(4)[np.delete(labels, i)]).predict(x[i : i + 1])[0]
                for i in range(len(x))
            ]
        )
        return np.mean(left_out.argmax(1) == labels), -np.square(left_out - np.eye(4)[labels]).mean()

    best = max(closed_form.PENALTIES[::4], key=merit)
    chosen = closed_form.ridge(x, labels, 4)[0]
    assert any(np.array_equal(chosen, closed_form.ridge(x, labels, 4, each)[0]) for each in closed_form.PENALTIES)
    some = closed_form.PENALTIES
    try:
        closed_form.PENALTIES = some[::4]
        np.testing.assert_array_equal(
            closed_form.ridge(x, labels, 4)[0], closed_form.ridge(x, labels, 4, strength=best)[0]
        )
    finally:
        closed_form.PENALTIES = some


def test_class_means_predict_the_nearest_mean(data):
    from scipy.spatial.distance import cdist

    x, labels = data
    layer = closed_form.class_means(x, labels, 4)
    means = np.stack([x[labels == label].mean(0) for label in range(4)])
    assert (probabilities(layer, x).argmax(1) == cdist(x, means).argmin(1)).all()
    variance = np.square(x - means[labels]).mean()
    distances = np.square(x[:, None] - means).sum(-1) / (2 * variance)
    logits = x @ layer[0] + layer[1]
    np.testing.assert_allclose(logits - logits[:, :1], distances[:, :1] - distances, atol=1e-8)


@pytest.mark.parametrize("preset", ["lda", "ridge", "class_means"])
@pytest.mark.parametrize("norm", ["none", "l2"])
def test_a_layer_is_finite_and_right_on_features_of_any_kind(preset, norm):
    settings = head_settings(preset, {"norm": norm})
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 1, 1, 3, 3])  # No example of class 2.
    x = (rng.normal(size=(6, 5)) * 0.01 + np.eye(5)[labels]).astype(np.float32)
    x[:, 4] = 7  # It never varies.
    layer = closed_form.fit_classifier(settings, x, labels, 4)
    assert all(np.isfinite(leaf).all() and leaf.dtype == np.float32 for leaf in layer.values())
    from flax_augtl.models.head import normalised

    seen = normalised(settings, x) if norm != "none" else x
    assert ((seen @ layer["kernel"] + layer["bias"]).argmax(1) == labels).all()
    assert closed_form.loss(layer, settings, x, labels) < 0.5
    same = closed_form.fit_classifier(settings, np.ones((6, 5), np.float32), labels, 4)
    assert all(np.isfinite(leaf).all() for leaf in same.values())
    one = closed_form.fit_classifier(settings, x[[0, 2]], labels[[0, 2]], 4)
    assert all(np.isfinite(leaf).all() for leaf in one.values())


def test_fields_that_contradict_a_closed_form_are_named():
    with pytest.raises(UserError, match="config.head.fit='lda' fits one linear layer .* as in the preset lda"):
        HeadSettings(fit="lda")
    with pytest.raises(UserError, match="any norm but batch"):
        head_settings("ridge", {"norm": "batch"})
    with pytest.raises(UserError, match="config.head.strength=2 has no effect: only config.head.fit=lda and ridge"):
        head_settings("class_means", {"strength": 2.0})
    with pytest.raises(UserError, match=r"config.head.strength=2 must be in \[0, 1\] for config.head.fit='lda'"):
        head_settings("lda", {"strength": 2.0})
