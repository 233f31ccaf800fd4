"""The head: closed forms of its norms, the presets' table, and what each setting adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_augtl.config.heads import NORMS, PRESETS, HeadSettings, head_settings
from flax_augtl.models.head import Head, L2Normalise, normalised, signed_root

# METHOD: preset, keep_classifier, new_layers, widen, norm, classifier_init.
TABLE = [
    ("traditional", False, (), 0, "none", "pretrained"),
    ("traditional_l2", False, (), 0, "l2", "pretrained"),
    ("kept_plain", True, (), 0, "none", "pretrained"),
    ("kept", True, (), 0, "l2", "pretrained"),
    ("kept_deeper", True, (1024,), 0, "l2", "pretrained"),
    ("kept_deeper_batch", True, (1024,), 0, "batch", "pretrained"),
    ("kept_deeper2", True, (2048, 1024), 0, "l2", "pretrained"),
    ("deeper", False, (1024,), 0, "l2", "pretrained"),
    ("wider", False, (), 1024, "l2", "pretrained"),
    ("random_deeper", True, (1024,), 0, "l2", "random"),
    ("shuffled_deeper", True, (1024,), 0, "l2", "shuffled"),
    ("lda", False, (), 0, "none", "pretrained"),
    ("ridge", False, (), 0, "none", "pretrained"),
    ("class_means", False, (), 0, "none", "pretrained"),
]


def test_the_presets_are_those_of_the_method():
    assert set(PRESETS) == {row[0] for row in TABLE}
    for name, *values in TABLE:
        settings = PRESETS[name]
        assert [
            settings.keep_classifier,
            settings.new_layers,
            settings.widen,
            settings.norm,
            settings.classifier_init,
        ] == values, name
        assert settings.scale == 10 and settings.dropout == 0


def test_l2_norm_is_gamma_times_x_over_its_norm():
    x = jnp.array([[3.0, 4.0], [-0.3, 0.4], [0.0, 0.0]])
    layer = L2Normalise(scale=10.0)
    variables = layer.init(jax.random.key(0), x)
    np.testing.assert_allclose(layer.apply(variables, x), [[6, 8], [-6, 8], [0, 0]], rtol=1e-6)
    variables = {"params": {"scale": jnp.array([1.0, 2.0])}}
    np.testing.assert_allclose(layer.apply(variables, x), [[0.6, 1.6], [-0.6, 1.6], [0, 0]], rtol=1e-6)


def test_l2_norm_has_a_finite_gradient_at_zero():
    layer = L2Normalise()
    variables = {"params": {"scale": jnp.ones(3)}}
    gradient = jax.grad(lambda x: layer.apply(variables, x).sum())(jnp.zeros((1, 3)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("norm", NORMS)
def test_every_class_is_equally_likely_at_the_start(norm):
    head = Head(HeadSettings(new_layers=(5,), norm=norm), 4)
    x = jax.random.normal(jax.random.key(1), (6, 7))
    variables = head.init(jax.random.key(0), x)
    np.testing.assert_array_equal(head.apply(variables, x), np.zeros((6, 4)))


def test_power_normalisation_in_closed_form():
    x = np.array([[4.0, -9.0, 0.0]], np.float32)
    found = normalised(HeadSettings(norm="power", scale=10.0), x)
    np.testing.assert_allclose(found, 10 * np.array([[2.0, -3.0, 0.0]]) / 13**0.5, rtol=1e-5)
    gradient = jax.grad(lambda x: signed_root(x).sum())(jnp.array([0.0, 4.0, -4.0]))
    np.testing.assert_allclose(gradient, [1e5**0.5, 0.25, 0.25], rtol=1e-4)


def test_depth_augmentation_in_closed_form():
    head = Head(HeadSettings(new_layers=(5,), norm="l2", scale=10.0), 4)
    x = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    variables = head.init(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1, variables["params"])
    normalised = params["layer1_norm"]["scale"] * x / np.linalg.norm(x, axis=1, keepdims=True)
    hidden = np.maximum(normalised @ params["layer1"]["kernel"] + params["layer1"]["bias"], 0)
    hidden = params["classifier_norm"]["scale"] * hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    expected = hidden @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    np.testing.assert_allclose(head.apply({"params": params}, x), expected, rtol=2e-4)


def test_width_augmentation_normalises_each_block_on_its_own():
    head = Head(HeadSettings(keep_classifier=False, widen=5, norm="l2", scale=10.0), 4)
    rng = np.random.default_rng(0)
    top, below = rng.normal(size=(6, 7)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
    variables = head.init(jax.random.key(0), top, below)
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1, variables["params"])

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    wide = np.maximum(params["wide_norm"]["scale"] * unit(below) @ params["wide"]["kernel"] + params["wide"]["bias"], 0)
    blocks = [params["classifier_norm"]["scale"] * unit(top), params["classifier_norm_wide"]["scale"] * unit(wide)]
    expected = np.concatenate(blocks, 1) @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    np.testing.assert_allclose(head.apply({"params": params}, top, below), expected, rtol=2e-4)


def test_dropout_is_on_in_training_only():
    head = Head(HeadSettings(new_layers=(50,), norm="none", dropout=0.5), 4)
    x = jax.random.normal(jax.random.key(1), (6, 7))
    variables = jax.tree.map(lambda leaf: leaf + 0.1, head.init(jax.random.key(0), x))
    still = head.apply(variables, x)
    np.testing.assert_array_equal(still, head.apply(variables, x))
    dropped = head.apply(variables, x, train=True, rngs={"dropout": jax.random.key(2)})
    assert np.abs(dropped - still).max() > 0.1


def test_fields_override_a_preset_and_none_does_not():
    settings = head_settings("kept_deeper", {"new_layers": [8], "norm": "layer", "widen": None})
    assert settings.new_layers == (8,) and settings.norm == "layer" and settings.widen == 0


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        (
            "kept_deper",
            {},
            r"config.head.preset='kept_deper' is unknown. Did you mean 'kept_deeper'\? Choices: traditional,",
        ),
        ("kept", {"norm": "l3"}, "config.head.norm='l3' is not one of none, l2, batch, layer"),
        (
            "kept",
            {"classifier_init": "zero"},
            "config.head.classifier_init='zero' is not one of pretrained, random, shuffled",
        ),
        ("kept", {"width": 3}, "config.head has no field width. Fields: preset, classifier_init"),
        ("kept", {"new_layers": (0,)}, "Widths of the head must be positive"),
        ("kept", {"dropout": 1.0}, r"config.head.dropout=1.0 is not in \[0, 1\)"),
        ("traditional", {"classifier_init": "random"}, "needs a kept classification layer"),
    ],
)
def test_invalid_settings_are_named(preset, overrides, message):
    with pytest.raises(ValueError, match=message):
        head_settings(preset, overrides)
