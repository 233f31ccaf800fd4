"""The fast convolutions compute what the plain ones compute."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_augtl.models import conv, create_model, winograd
from flax_augtl.models.conv import DIMENSIONS, convolve

ONES = ((1, 1), (1, 1))


def plain(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)


def as_flax_calls(x, kernel, strides, padding):
    return convolve(
        x,
        kernel,
        strides,
        padding,
        lhs_dilation=(1, 1),
        rhs_dilation=(1, 1),
        dimension_numbers=DIMENSIONS,
        feature_group_count=1,
        precision=None,
    )


def with_gradients(function, x, kernel, strides, padding):
    def run(x, kernel):
        y, back = jax.vjp(lambda x, kernel: function(x, kernel, strides, padding), x, kernel)
        # The gradient of any function of the output with whole numbers will do.
        return y, *back(jnp.sign(y) * (1 + jnp.arange(y.size).reshape(y.shape) % 3))

    return jax.jit(run)(x, kernel)


def whole_numbers(shape, seed):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


@pytest.fixture
def everywhere(monkeypatch):
    """Compute even the smallest 3×3 convolutions with Winograd's filtering."""
    monkeypatch.setattr(conv, "LARGE", 0)


@pytest.mark.parametrize("chunk", [1 << 19, 200, 1])
@pytest.mark.parametrize("shape", [(6, 4, 4, 3), (6, 7, 7, 3), (6, 5, 8, 3), (6, 1, 1, 3), (5, 2, 3, 1)])
def test_winograd_is_exact_for_whole_numbers(everywhere, monkeypatch, shape, chunk):
    monkeypatch.setattr(winograd, "CHUNK", chunk)
    x, kernel = whole_numbers(shape, 0), whole_numbers((3, 3, shape[-1], 4), 1)
    ours, reference = (with_gradients(function, x, kernel, (1, 1), ONES) for function in (as_flax_calls, plain))
    jax.tree.map(np.testing.assert_array_equal, ours, reference)
    assert "convolution" not in jax.jit(lambda x: as_flax_calls(x, kernel, (1, 1), ONES)).lower(x).as_text()


def test_the_rounding_errors_of_winograd_are_those_of_a_plain_convolution(everywhere):
    generator = np.random.default_rng(0)
    x, kernel = generator.normal(size=(4, 14, 14, 64)), generator.normal(size=(3, 3, 64, 64)) / 24
    narrow = [each.astype(np.float32) for each in (x, kernel)]
    with jax.enable_x64(True):
        exact = np.asarray(plain(x, kernel, (1, 1), ONES))
    errors = [np.abs(np.asarray(function(*narrow, (1, 1), ONES)) - exact).max() for function in (as_flax_calls, plain)]
    assert errors[0] < 2 * errors[1] < 1e-5


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("side", [4, 7])
def test_a_1_by_1_convolution_is_a_matrix_product(strides, side):
    x, kernel = whole_numbers((3, side, side, 5), 0), whole_numbers((1, 1, 5, 4), 1)
    ours, reference = (
        with_gradients(function, x, kernel, strides, ((0, 0), (0, 0))) for function in (as_flax_calls, plain)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, reference)
    assert (
        "convolution" not in jax.jit(lambda x: as_flax_calls(x, kernel, strides, ((0, 0), (0, 0)))).lower(x).as_text()
    )


@pytest.mark.parametrize(
    ("dtype", "strides", "padding", "size"),
    [
        ("bfloat16", (1, 1), ONES, 3),
        ("float32", (2, 2), ONES, 3),
        ("float32", (1, 1), ((0, 0), (0, 0)), 3),
        ("float32", (1, 1), ((3, 3), (3, 3)), 7),
        ("bfloat16", (1, 1), ((0, 0), (0, 0)), 1),
    ],
)
def test_other_convolutions_do_not_change(everywhere, dtype, strides, padding, size):
    x, kernel = whole_numbers((2, 8, 8, 3), 0).astype(dtype), whole_numbers((size, size, 3, 4), 1).astype(dtype)
    ours, reference = (with_gradients(function, x, kernel, strides, padding) for function in (as_flax_calls, plain))
    jax.tree.map(np.testing.assert_array_equal, ours, reference)
    assert "convolution" in jax.jit(lambda x: as_flax_calls(x, kernel, strides, padding)).lower(x).as_text()


def test_a_small_3_by_3_convolution_is_not_worth_the_compilation():
    x, kernel = jnp.zeros((32, 32, 32, 16)), jnp.zeros((3, 3, 16, 16))
    assert "convolution" in jax.jit(lambda x: as_flax_calls(x, kernel, (1, 1), ONES)).lower(x).as_text()


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("size", [1, 3])
def test_accelerators_get_their_own_convolutions(everywhere, platform, size):
    pad = size // 2
    run = functools.partial(with_gradients, as_flax_calls, strides=(1, 1), padding=((pad, pad), (pad, pad)))
    arrays = jnp.zeros((2, 4, 4, 3)), jnp.zeros((size, size, 3, 4))
    text = jax.jit(run).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert "dot_general" not in text


def test_each_of_a_batch_of_kernels(everywhere):
    x, kernels = whole_numbers((2, 3, 6, 6, 3), 0), whole_numbers((2, 3, 3, 3, 4), 1)
    together = jax.vmap(lambda x, kernel: with_gradients(as_flax_calls, x, kernel, (1, 1), ONES))(x, kernels)
    for i in range(2):
        jax.tree.map(
            np.testing.assert_array_equal,
            [each[i] for each in together],
            list(with_gradients(plain, x[i], kernels[i], (1, 1), ONES)),
        )


def test_on_each_device_of_a_pmap(everywhere, monkeypatch):
    monkeypatch.setattr(winograd, "CHUNK", 1)
    n = jax.local_device_count()
    x, kernel = whole_numbers((n, 2, 6, 6, 3), 0), whole_numbers((3, 3, 3, 4), 1)

    def gradient(x, kernel):
        return jax.lax.pmean(jax.grad(lambda kernel: as_flax_calls(x, kernel, (1, 1), ONES).sum())(kernel), "batch")

    found = jax.pmap(gradient, axis_name="batch", in_axes=(0, None))(x, kernel)
    of_one = jax.grad(lambda kernel, x: plain(x, kernel, (1, 1), ONES).sum())
    expected = np.mean([of_one(kernel, each) for each in x], axis=0)
    np.testing.assert_array_equal(found[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_a_network_does_not_change(monkeypatch, name):
    model = create_model(name, num_classes=3)
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    reference = model.apply(variables, x)
    monkeypatch.setattr(conv, "LARGE", 0)
    np.testing.assert_allclose(model.apply(variables, x), reference, rtol=1e-4, atol=1e-5 * np.abs(reference).max())
