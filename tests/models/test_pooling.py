"""Pooling against closed forms and XLA's own gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_augtl.models.pooling import adaptive_average_pool, max_pool

WINDOWS = [(3, 2, 1), (2, 2, 0), (3, 1, 0)]


@pytest.mark.parametrize(("height", "width"), [(7, 7), (5, 6), (1, 3), (8, 14), (10, 23)])
def test_adaptive_pooling_averages_pytorchs_windows(height, width):
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    expected = np.empty((2, 7, 7, 3), np.float32)
    for i in range(7):
        for j in range(7):
            rows = slice(i * height // 7, -(-(i + 1) * height // 7))
            columns = slice(j * width // 7, -(-(j + 1) * width // 7))
            expected[:, i, j] = x[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(adaptive_average_pool(jnp.asarray(x), 7), expected, atol=1e-6)


def test_the_padding_is_never_the_maximum():
    assert (max_pool(-jnp.ones((1, 4, 4, 1)), 3, 2, pad=1) == -1).all()


def gradient(x, size, stride, pad):
    y, back = jax.vjp(lambda x: max_pool(x, size, stride, pad=pad), x)
    return back(1 + jnp.arange(y.size, dtype=y.dtype).reshape(y.shape) % 5)[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9)])
@pytest.mark.parametrize(("size", "stride", "pad"), WINDOWS)
def test_the_gradient_goes_to_the_first_of_equal_maxima(size, stride, pad, height, width, dtype):
    x = jnp.asarray(
        np.random.default_rng(0).integers(-2, 3, (3, height, width, 4)), dtype
    )  # Equal values in every window.
    y, back = jax.vjp(lambda x: nn.max_pool(x, (size, size), (stride, stride), ((pad, pad), (pad, pad))), x)
    expected = back(1 + jnp.arange(y.size, dtype=y.dtype).reshape(y.shape) % 5)[0]
    np.testing.assert_array_equal(max_pool(x, size, stride, pad), y)
    np.testing.assert_array_equal(gradient(x, size, stride, pad), expected)


@pytest.mark.parametrize(("platform", "own"), [("cpu", False), ("tpu", True), ("cuda", True)])
def test_accelerators_keep_their_own_gradient(platform, own):
    lowered = (
        jax.jit(lambda x: gradient(x, 3, 2, 1)).trace(jnp.zeros((1, 8, 8, 2))).lower(lowering_platforms=(platform,))
    )
    assert ("select_and_scatter" in lowered.as_text()) == own


def test_the_gradient_does_not_depend_on_how_a_compiler_rounds_what_it_computes_twice():
    """Without fusion emitters (see conftest.py) XLA computes x again in the backward pass, with another rounding."""
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(4, 8, 8, 4)).astype(np.float32), rng.normal(size=(4, 4, 4, 4)).astype(np.float32)

    def total(pool):
        return lambda x: (pool(jnp.maximum(1.1 * x + 0.3, 0)) * weights).sum()

    found = jax.jit(jax.grad(total(lambda x: max_pool(x, 2, 2))))(x)
    expected = jax.jit(jax.grad(total(lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)))))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
