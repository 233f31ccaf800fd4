"""Pooling over the positions of [N, H, W, C], with PyTorch's windows."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.runtime import determinism

_BY_PLACES = contextvars.ContextVar("gradient_by_places", default=False)


@contextlib.contextmanager
def gradient_by_places(wanted: bool = True) -> Iterator[None]:
    """Let max-pooling that is differentiated within take its gradient place by place on every platform."""
    token = _BY_PLACES.set(wanted)
    try:
        yield
    finally:
        _BY_PLACES.reset(token)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, size: int, stride: int, pad: int = 0) -> jax.Array:
    """Take the maximum of each window of [N, H, W, C]; the padding is never the maximum."""
    return _pool(x, size, stride, pad)


def _pool(x, size, stride, pad):
    padding: Any = ((pad, pad), (pad, pad))  # Flax declares a str, and takes pairs too.
    return nn.max_pool(x, (size, size), strides=(stride, stride), padding=padding)


def _forward(x, size, stride, pad):
    return max_pool(x, size, stride, pad), x


def _plain_gradient(x, gradient, *, size, stride, pad):
    return jax.vjp(functools.partial(_pool, size=size, stride=stride, pad=pad), x)[1](gradient)[0]


def _gradient(x, gradient, *, size, stride, pad):
    """Give each window's gradient to the first maximum in it, in one pass for each position in the window.

    The positions are compared with each other and not with the maximum from the forward pass: a compiler may compute x
    again here, rounded differently, and then nothing would equal that maximum.
    """
    side = [(each - 1) * stride + 1 for each in gradient.shape[1:3]]
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=-jnp.inf)
    places = [(i, j) for i in range(size) for j in range(size)]
    values = [padded[:, i : i + side[0] : stride, j : j + side[1] : stride] for i, j in places]
    highest, first = values[0], jnp.zeros(gradient.shape, jnp.int8)
    for number, value in enumerate(values):
        higher = value > highest
        highest, first = jnp.where(higher, value, highest), jnp.where(higher, jnp.int8(number), first)
    total = jnp.zeros_like(padded)
    for number, (i, j) in enumerate(places):
        total += jax.lax.pad(
            jnp.where(first == number, gradient, 0),
            jnp.zeros((), x.dtype),
            (
                (0, 0, 0),
                (i, padded.shape[1] - i - side[0], stride - 1),
                (j, padded.shape[2] - j - side[1], stride - 1),
                (0, 0, 0),
            ),
        )
    return total[:, pad : pad + x.shape[1], pad : pad + x.shape[2]]


def _backward(size, stride, pad, kept, gradient):
    settings = {"size": size, "stride": stride, "pad": pad}
    # XLA has no deterministic form of its own gradient on a GPU, and refuses to compile it.
    if _BY_PLACES.get() or determinism.is_on():
        return (_gradient(kept, gradient, **settings),)
    # On a CPU, XLA's own gradient takes four times as long, longer than the convolution before it.
    return (
        jax.lax.platform_dependent(
            kept,
            gradient,
            cpu=functools.partial(_gradient, **settings),
            default=functools.partial(_plain_gradient, **settings),
        ),
    )


max_pool.defvjp(_forward, _backward)


def pooling_matrix(inputs: int, outputs: int) -> np.ndarray:
    """Return float32 [outputs, inputs]: row i averages positions floor(i·in/out) to ceil((i+1)·in/out)."""
    matrix = np.zeros((outputs, inputs), np.float32)
    for i in range(outputs):
        begin, end = i * inputs // outputs, -(-(i + 1) * inputs // outputs)
        matrix[i, begin:end] = 1 / (end - begin)
    return matrix


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """Average [N, H, W, C] down, or up, to [N, size, size, C] over PyTorch's windows, which overlap when H < size.

    The windows of the two axes are independent, so each axis needs one small matrix product.
    """
    if x.shape[1:3] == (size, size):
        return x
    rows, columns = pooling_matrix(x.shape[1], size), pooling_matrix(x.shape[2], size)
    pooled = jnp.einsum("ih,nhwc,jw->nijc", rows, x.astype(jnp.float32), columns, precision=jax.lax.Precision.HIGHEST)
    return pooled.astype(x.dtype)
