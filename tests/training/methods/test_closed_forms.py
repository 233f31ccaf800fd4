"""Each method against its formula."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_augtl.config.methods import METHODS, MethodSettings
from flax_augtl.config.schema import Config
from flax_augtl.training.freezing import FreezingPlan, freezing_plan
from flax_augtl.training.methods import places_of
from flax_augtl.training.methods.class_contrast import ClassContrast, contrast
from flax_augtl.training.methods.spectral_shrinkage import SpectralShrinkage, smallest
from flax_augtl.training.methods.stochastic_norm import StochasticNorm
from flax_augtl.training.optimizer import create_optimizer, optimizer_of
from tests import small

PLAN = FreezingPlan(("stem", "layer1", "layer2", "head"), ("frozen", "pretrained", "pretrained", "new"))
RNG = np.random.default_rng(0)


def layer():
    return {"kernel": RNG.normal(size=(3, 2)).astype(np.float32), "bias": RNG.normal(size=2).astype(np.float32)}


PARAMS = {"source": {"layer1": layer(), "layer2": layer()}, "head": {"kernel": np.zeros((2, 2), np.float32)}}
GRADIENTS = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32), PARAMS)


def updates(method, steps=1, momentum=0.0, weight_decay=0.1, optimizer="sgd", plan=PLAN):
    """Return the parameters after some steps with these gradients at rate 0.1."""
    settings = optimizer_of(
        Config(optimizer=optimizer, momentum=momentum, weight_decay=weight_decay, new_layer_multiplier=10.0),
        places_of(method),
    )
    transform = create_optimizer(settings, plan)
    params, state = PARAMS, transform.init(PARAMS)
    for _ in range(steps):
        step, state = transform.update(GRADIENTS, state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda update: -0.1 * update, step))
    return params


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


def test_l2_sp_pulls_kernels_to_their_start_and_nothing_else():
    plain, pulled = updates(MethodSettings()), updates(MethodSettings(l2_sp=0.5), steps=2)
    gradient, start = GRADIENTS["source"]["layer1"], PARAMS["source"]["layer1"]
    first = start["kernel"] - 0.1 * gradient["kernel"]  # At the start there is no pull, and no weight decay.
    second = first - 0.1 * (gradient["kernel"] + 0.5 * (first - start["kernel"]))
    assert_close(pulled["source"]["layer1"]["kernel"], second)
    assert_close(pulled["source"]["layer1"]["bias"], start["bias"] - 0.2 * gradient["bias"])
    # New layers keep the weight decay, so that with everything else frozen nothing differs.
    assert_close(updates(MethodSettings(l2_sp=0.5))["head"], plain["head"])


def test_l2_sp_is_decoupled_with_adamw():
    one, two = (updates(MethodSettings(l2_sp=strength), 2, optimizer="adamw") for strength in (1e-9, 0.5))
    first = updates(MethodSettings(l2_sp=1e-9), 1, optimizer="adamw")
    kernel = PARAMS["source"]["layer1"]["kernel"]
    moved = first["source"]["layer1"]["kernel"] - kernel
    assert_close(two["source"]["layer1"]["kernel"], one["source"]["layer1"]["kernel"] - 0.1 * 0.5 * moved)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lower_groups_have_lower_rates(momentum):
    plain, decayed = (updates(MethodSettings(layer_decay=decay), 2, momentum, 0.0) for decay in (1.0, 0.5))
    for group, factor in (("layer1", 0.5), ("layer2", 1.0)):
        moved = [
            jax.tree.map(np.subtract, found["source"][group], PARAMS["source"][group]) for found in (plain, decayed)
        ]
        assert_close(jax.tree.map(lambda leaf, factor=factor: factor * leaf, moved[0]), moved[1])
    assert_close(decayed["head"], plain["head"])


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_the_rate_of_a_tensor_follows_its_relative_gradient(power):
    plain, scaled = (updates(MethodSettings(relative_gradient=each), weight_decay=0.0) for each in (0.0, power))
    pretrained = PARAMS["source"], GRADIENTS["source"]
    ratios = jax.tree.map(lambda leaf, gradient: np.linalg.norm(gradient) / np.linalg.norm(leaf), *pretrained)
    most = max(jax.tree.leaves(ratios))
    expected = jax.tree.map(
        lambda start, end, ratio: start + (end - start) * (ratio / most) ** power,
        PARAMS["source"],
        plain["source"],
        ratios,
    )
    assert_close(scaled["source"], expected)
    # The classifier starts at zero: its ratio is infinite, and must not set the other rates to zero.
    assert np.abs(scaled["source"]["layer1"]["kernel"] - PARAMS["source"]["layer1"]["kernel"]).max() > 1e-3
    assert_close(scaled["head"], plain["head"])


def test_a_tensor_of_zeros_has_no_part_in_the_maximum():
    source = {**PARAMS["source"], "layer2": {**PARAMS["source"]["layer2"], "bias": np.zeros(2, np.float32)}}
    transform = places_of(METHODS["auto_rgn"]).around[0].around(optax.identity())
    step, _ = transform.update(GRADIENTS["source"], transform.init(source), source)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(step))
    assert max(
        np.abs(one / other).max() for one, other in zip(*map(jax.tree.leaves, (step, GRADIENTS["source"])), strict=True)
    ) == pytest.approx(1)
    assert np.abs(step["layer1"]["kernel"] / GRADIENTS["source"]["layer1"]["kernel"]).max() > 0.01


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
@pytest.mark.parametrize("count", [1, 3])
def test_spectral_shrinkage_is_the_sum_of_the_smallest_squared_singular_values(shape, count):
    x = np.random.default_rng(1).normal(size=shape)
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    found, gradient = jax.value_and_grad(smallest)(jnp.asarray(x, jnp.float32), count)
    assert found == pytest.approx(np.square(singular[-count:]).sum(), rel=1e-4)
    expected = 2 * (left[:, -count:] * singular[-count:]) @ right[-count:]
    np.testing.assert_allclose(gradient, expected, atol=2e-4)
    assert np.isfinite(jax.grad(smallest)(jnp.zeros(shape), count)).all()  # All singular values are equal.


def test_spectral_shrinkage_is_that_of_the_whole_batch():
    x = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
    term = SpectralShrinkage(0.5, 2)

    def loss(x):
        return jax.pmap(
            lambda part: term.loss(part, None, "batch"), axis_name="batch", devices=jax.devices()[: len(x)]
        )(x)

    expected = 0.5 * np.square(np.linalg.svd(x)[1][-2:]).sum()
    np.testing.assert_allclose(loss(x.reshape(1, 8, 5)), [expected], rtol=1e-4)
    np.testing.assert_allclose(loss(x.reshape(4, 2, 5)), [expected] * 4, rtol=1e-4)


def contrast_by_hand(x, labels, temperature):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        whole = sum(np.exp(unit[i] @ unit[j] / temperature) for j in others)
        positive = [np.log(np.exp(unit[i] @ unit[j] / temperature) / whole) for j in others if labels[j] == labels[i]]
        found += [-np.mean(positive)] if positive else []
    return np.mean(found)


def test_contrast_is_the_mean_over_examples_with_another_of_their_class():
    x = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
    labels = np.array([0, 0, 0, 1, 1, 2, 3, 1])
    expected = contrast_by_hand(np.asarray(x, np.float64), labels, 0.5)
    assert contrast(x, labels, 0.5) == pytest.approx(expected, rel=1e-5)
    assert contrast(3 * x, labels, 0.5) == pytest.approx(expected, rel=1e-5)
    assert contrast(x, np.arange(8), 0.5) == 0  # No two of one class.
    assert np.isfinite(jax.grad(contrast)(jnp.zeros((8, 5)), labels, 0.07)).all()
    assert np.isfinite(jax.grad(contrast)(x[:1], labels[:1], 0.07)).all()
    # A step against the gradient brings features of one class together.
    after = x - 0.1 * jax.grad(contrast)(x, labels, 0.5)
    assert contrast(after, labels, 0.5) < expected


def test_contrast_is_that_of_the_whole_batch():
    x = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
    labels, term = np.array([0, 1, 0, 1, 2, 2, 0, 1]), ClassContrast(2.0, 0.5)

    def loss(x, labels):
        devices = jax.devices()[: len(x)]
        return jax.pmap(lambda *part: term.loss(*part, "batch"), axis_name="batch", devices=devices)(x, labels)

    expected = 2 * contrast_by_hand(np.asarray(x, np.float64), labels, 0.5)
    np.testing.assert_allclose(loss(x.reshape(1, 8, 5), labels.reshape(1, 8)), [expected], rtol=1e-4)
    np.testing.assert_allclose(loss(x.reshape(4, 2, 5), labels.reshape(4, 2)), [expected] * 4, rtol=1e-4)


@pytest.fixture(scope="module")
def norms():
    """A function from a probability to outputs of the stem's batch norm in training, and those of both kinds."""
    net = small.network("traditional")
    variables = small.variables(net)
    x = small.images(4)

    @jax.jit
    def run(probability, seed=0):
        with StochasticNorm(probability).during(jax.random.key(seed)):
            return net.apply(variables, x, 0, 1, train_from=0, mutable=["batch_stats"])[0]

    batch = np.asarray(net.apply(variables, x, 0, 1, train_from=0, mutable=["batch_stats"])[0])
    past = np.asarray(net.apply(variables, x, 0, 1))
    assert np.abs(batch - past).max() > 0.01
    return run, batch, past


def test_each_channel_takes_one_of_the_two_statistics(norms):
    run, batch, past = norms
    np.testing.assert_allclose(run(1.0), past, atol=1e-5)
    np.testing.assert_allclose(run(0.0), batch, atol=1e-5)
    channels = past.shape[-1]

    def of_past(probability):
        kinds = []
        for seed in range(20):
            found = run(probability, seed)
            for channel in range(channels):
                is_past, is_batch = (
                    np.allclose(found[..., channel], each[..., channel], atol=1e-5) for each in (past, batch)
                )
                assert is_past or is_batch
                kinds.append(is_past)
        return np.mean(kinds)

    # The probability counts, and the coin is thrown anew with each key.
    assert of_past(0.1) < 0.35 < 0.65 < of_past(0.9)


def test_inference_knows_no_coin(norms):
    _, _, past = norms
    net = small.network("traditional")
    with StochasticNorm(0.5).during(jax.random.key(0)):
        np.testing.assert_array_equal(net.apply(small.variables(net), small.images(4), 0, 1), past)


@pytest.mark.parametrize(("preset", "names"), [("norm_only", {"scale", "bias"}), ("bias_only", {"bias"})])
def test_only_one_kind_of_parameters_trains(preset, names):
    net = small.network("kept_plain")
    params = small.variables(net)["params"]
    plan = freezing_plan(net.groups, "layer2", subset=places_of(METHODS[preset]).subset)
    trainable, frozen = plan.partition(params)
    paths = [[key.key for key in path] for path, _ in jax.tree_util.tree_leaves_with_path(trainable["source"])]
    assert {path[0] for path in paths} <= {"layer3", "layer4", "fc"} and {path[-1] for path in paths} == names
    if preset == "norm_only":
        assert all("bn" in path[-2] for path in paths)
    assert len(jax.tree.leaves(trainable["head"])) == len(jax.tree.leaves(params["head"]))
    count = len(jax.tree.leaves(trainable)) + len(jax.tree.leaves(frozen))
    assert count == len(jax.tree.leaves(params))
    # Masks and states of the optimizer see the trainable partition alone.
    assert plan.label_tree(trainable) == jax.tree.map(lambda _: "pretrained", trainable) | {
        "head": jax.tree.map(lambda _: "new", trainable["head"])
    }


def test_a_preset_differs_from_plain_in_its_own_numbers_only():
    fields = {field.name for field in dataclasses.fields(MethodSettings)}
    for name, settings in METHODS.items():
        different = {field for field in fields if getattr(settings, field) != getattr(METHODS["plain"], field)}
        assert len(different) == (name != "plain"), name
