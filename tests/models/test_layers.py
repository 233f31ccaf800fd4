"""The layers against closed forms, where PyTorch and the usual JAX choice differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_augtl.models.layers import batch_norm, conv


def test_strided_convolution_pads_both_sides():
    # On an even extent "SAME" pads the end only, and every output moves by a pixel.
    layer = conv(1, 3, 2, bias=False, dtype=jnp.float32, name=None)
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
    y = layer.apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 2], [8, 10]])


def test_a_channel_that_hardly_varies_does_not_turn_into_noise():
    # E[x²] − E[x]² of 1000 ± 0.01 is below float32's resolution.
    x = 1000 + 0.01 * jnp.sign(jax.random.normal(jax.random.key(0), (64, 4, 4, 1)))
    layer = batch_norm(True, epsilon=1e-5, dtype=jnp.float32, axis_name=None, name=None)
    variables = layer.init(jax.random.key(0), x)
    _, updates = layer.apply(variables, x, mutable=["batch_stats"])
    true = np.asarray(x, np.float64).var()
    assert (float(updates["batch_stats"]["var"][0]) - 0.9) / 0.1 == pytest.approx(true, rel=0.01)
