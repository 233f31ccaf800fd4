"""A network that is cut at a layer group computes what the whole one computes, and trains only above `train_from`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_augtl.models import create_model
from flax_augtl.pretrained import random_variables
from tests.families import CHAINS


def build(case, **settings):
    """Return a small model, its variables with random statistics, and a batch of images."""
    name, small, size, _ = CHAINS[case]
    model = create_model(name, num_classes=5, **small, **settings)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, size, size, 3)), jnp.float32)
    # NumPy draws the values and the statistics: compiling `model.init` takes longer than all these tests.
    variables = random_variables(model)
    random = np.random.default_rng(2)
    if "batch_stats" in variables:
        draw = lambda leaf: jnp.asarray(random.uniform(0.5, 1.5, leaf.shape), jnp.float32)  # noqa: E731
        variables["batch_stats"] = jax.tree.map(draw, variables["batch_stats"])
    return model, variables, x


def run(model, variables, x, **where):
    """Apply compiled: op by op, every small operation is compiled on its own, which takes far longer."""
    return jax.jit(lambda v, x: model.apply(v, x, **where))(variables, x)


def pick(variables, groups):
    """Return the variables of some groups only."""
    return {c: {g: tree[g] for g in groups if g in tree} for c, tree in variables.items()}


def close(actual, expected):
    # Compilation fuses a whole and its parts differently: the last bits may differ.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("case", CHAINS)
def test_cut_at_any_group_equals_the_whole(case):
    model, variables, x = build(case)
    whole = run(model, variables, x)
    assert whole.shape == (3, 5) and whole.dtype == jnp.float32
    activations = [x]
    for k, group in enumerate(model.groups):
        # Each part gets its own variables only: it must not need those of the others.
        activations.append(run(model, pick(variables, [group]), activations[-1], start=k, stop=k + 1))
    close(activations[-1], whole)
    k = len(model.groups) // 2
    close(run(model, pick(variables, model.groups[:k]), x, stop=k), activations[k])
    close(run(model, pick(variables, model.groups[k:]), activations[k], start=k), whole)
    np.testing.assert_array_equal(run(model, variables, x, start=0, stop=0), x)


@pytest.mark.parametrize("case", CHAINS)
def test_the_penultimate_activation_is_a_vector(case):
    model, variables, x = build(case)
    penultimate = run(model, variables, x, stop=len(model.groups) - 1)
    assert penultimate.shape == (3, variables["params"][model.groups[-1]]["kernel"].shape[0])
    headless = create_model(CHAINS[case].network, num_classes=None, **CHAINS[case].settings)
    close(run(headless, pick(variables, headless.groups), x), penultimate)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["basic", "vgg_bn", "cifar"])
def test_groups_below_train_from_keep_their_statistics(case):
    model, variables, x = build(case)
    every = range(len(model.groups) + 1) if case == "basic" else (0, 2)
    for boundary in every:
        _, updates = run(model, variables, x, train_from=boundary, mutable=["batch_stats"])
        for index, group in enumerate(model.groups):
            if group not in variables["batch_stats"]:
                continue
            before = jax.tree.leaves(variables["batch_stats"][group])
            after = jax.tree.leaves(updates["batch_stats"][group])
            changed = [bool((np.asarray(a) != np.asarray(b)).any()) for a, b in zip(after, before, strict=True)]
            assert all(changed) if index >= boundary else not any(changed), (group, boundary)


def test_running_statistics_move_a_tenth_of_the_way():
    model, variables, x = build("cifar")
    _, updates = run(model, variables, x, train_from=0, mutable=["batch_stats"])
    kernel = variables["params"]["stem"]["conv1"]["kernel"]
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    old, new = variables["batch_stats"]["stem"]["bn1"], updates["batch_stats"]["stem"]["bn1"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * y.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * y.var((0, 1, 2)), rtol=1e-5, atol=1e-6)


def test_inference_is_independent_of_the_batch_and_training_is_not():
    model, variables, x = build("cifar")
    close(run(model, variables, x[:1]), run(model, variables, x)[:1])
    trained, _ = run(model, variables, x, train_from=0, mutable=["batch_stats"])
    alone, _ = run(model, variables, x[:1], train_from=0, mutable=["batch_stats"])
    assert np.abs(trained[:1] - alone).max() > 1e-2


def test_training_statistics_are_those_of_the_whole_mapped_batch():
    # Like pmap, vmap has a named axis, but it needs only one device.
    model, variables, x = build("cifar", axis_name="batch")
    x = jnp.concatenate([x, 2 * x[:1] + 1])

    def part(x):
        return model.apply(variables, x, train_from=0, mutable=["batch_stats"])

    split, updates = jax.jit(jax.vmap(part, axis_name="batch"))(x.reshape(2, 2, *x.shape[1:]))
    plain = build("cifar")[0]
    whole, expected = run(plain, variables, x, train_from=0, mutable=["batch_stats"])
    np.testing.assert_allclose(split.reshape(whole.shape), whole, rtol=1e-3, atol=1e-4)
    for got, want in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got[0], got[1])
        np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-5)


def test_compute_dtype_leaves_parameters_and_logits_in_float32():
    model, variables, x = build("bottleneck", dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    # Means above 0 leave nothing behind the ReLUs, and the logits would be the bias alone.
    variables["batch_stats"] = jax.tree.map_with_path(
        lambda path, leaf: leaf * (path[-1].key == "var"), variables["batch_stats"]
    )
    assert run(model, variables, x, stop=2).dtype == jnp.bfloat16
    logits = run(model, variables, x)
    assert logits.dtype == jnp.float32
    exact = run(build("bottleneck")[0], variables, x)
    difference = np.abs(logits - exact).max()
    assert 0 < difference < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (3, 2), (0, 99)])
def test_groups_that_do_not_exist_are_refused(start, stop):
    model = create_model("resnet20")
    with pytest.raises(ValueError, match=r"cannot run the layer groups .* has 5 \(stem, layer1, layer2, layer3, fc\)"):
        model.apply({}, jnp.zeros((1, 32, 32, 3)), start=start, stop=stop)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 40, 40, 3), "uint8", "got uint8: preprocess them first"),
        ((2, 3, 40, 40), "float32", r"\[N, H, W, 3\], got an array of shape \(2, 3, 40, 40\)"),
        ((40, 40, 3), "float32", r"\[N, H, W, 3\]"),
        ((2, 31, 40, 3), "float32", "31 x 40 pixels are too small: 32"),
    ],
)
def test_an_array_that_is_no_batch_of_images_is_refused(shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        create_model("vgg11").apply({}, jnp.zeros(shape, dtype))
