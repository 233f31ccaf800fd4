"""LEEP's predictor against its definition, and the classifier that starts from it."""

import jax
import numpy as np
import pytest

from flax_augtl.config.heads import HeadSettings
from flax_augtl.models import leep

THETA = np.array([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0], [1.0, 0.0, 0.0]])
LABELS = np.array([0, 1, 1])


def test_the_conditional_is_the_definition():
    # P(y, z): the sums of θ_z over the examples of y, over n; divided by P(z).
    expected = [[0.5 / 1.7, 1.2 / 1.7], [0.5 / 1.3, 0.8 / 1.3], [1 / 3, 2 / 3]]
    np.testing.assert_allclose(leep.conditional(THETA, LABELS, 2), expected)


def test_the_predictor_sums_over_source_classes():
    of_source = leep.conditional(THETA, LABELS, 2)
    np.testing.assert_allclose(leep.predict(THETA, of_source)[0], 0.5 * of_source[0] + 0.5 * of_source[1])
    np.testing.assert_allclose(leep.predict(THETA, of_source).sum(1), 1)


def test_speakers_are_shares_of_a_target_class():
    of_source = leep.conditional(THETA, LABELS, 2)
    (first, *_), _ = leep.speakers(of_source, THETA, count=3)
    assert first == (0, pytest.approx(0.5)) or first == (1, pytest.approx(0.5))
    assert sum(share for _, share in leep.speakers(of_source, THETA, count=3)[1]) == pytest.approx(1)


@pytest.mark.parametrize("norm", ["none", "l2", "batch", "layer", "power"])
def test_a_classifier_that_starts_from_leep_knows_the_task_before_training(norm):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    logits = rng.normal(size=(200, 8)) + 3 * np.eye(8)[labels]
    start = leep.start_classifier(HeadSettings(norm=norm, classifier_init_from="leep"), logits, labels, 3)
    from flax_augtl.models.head import normalised

    inputs = normalised(HeadSettings(norm=norm), logits)
    scores = inputs @ start["kernel"] + start["bias"]
    assert start["kernel"].shape == (8, 3) and start["kernel"].dtype == np.float32
    assert np.mean(scores.argmax(1) == labels) > 0.9
    loss = -np.mean(np.asarray(jax.nn.log_softmax(scores))[np.arange(200), labels])
    # The scale is optimal: a larger or a smaller one is worse.
    for factor in (0.9, 1.1):
        other = inputs @ (factor * start["kernel"]) + start["bias"]
        assert loss < -np.mean(np.asarray(jax.nn.log_softmax(other))[np.arange(200), labels]) + 1e-6


def test_a_head_that_does_not_read_the_kept_layer_cannot_start_from_it():
    with pytest.raises(ValueError, match="classifier_init_from='leep' needs a target classifier that reads"):
        HeadSettings(new_layers=(4,), classifier_init_from="leep")
    with pytest.raises(ValueError, match="is not one of zero, leep"):
        HeadSettings(classifier_init_from="leap")
