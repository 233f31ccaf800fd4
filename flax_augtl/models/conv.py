"""The convolutions of the source networks, each computed in the way that is fast on the platform."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from flax_augtl.models.winograd import winograd, winograd_gradients

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# From this number of multiply-adds on, Winograd's filtering repays its compilation, one or two seconds a layer.
LARGE = 1 << 28
_PLAIN = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """Have `convolve` use nothing but XLA's own convolution in what is traced meanwhile.

    A program for other machines needs that: its batch size is a symbol, and its platform is not known.
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def _plain(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)


def _product(x, kernel, strides):
    """Convolve with a 1×1 kernel: a matrix product over the positions that the strides select."""
    return jax.lax.dot_general(x[:, :: strides[0], :: strides[1]], kernel[0, 0], (((3,), (0,)), ((), ())))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolved(x, kernel, strides, padding):
    cpu = functools.partial(_product, strides=strides) if kernel.shape[:2] == (1, 1) else winograd
    return jax.lax.platform_dependent(
        x, kernel, cpu=cpu, default=functools.partial(_plain, strides=strides, padding=padding)
    )


def _forward(x, kernel, strides, padding):
    return _convolved(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, kept, gradient):
    def derived(function):
        return lambda x, kernel, gradient: jax.vjp(function, x, kernel)[1](gradient)

    # Differentiate each way, not the choice between them: that would keep the inputs of both.
    cpu = derived(functools.partial(_product, strides=strides)) if kept[1].shape[:2] == (1, 1) else winograd_gradients
    return jax.lax.platform_dependent(
        *kept, gradient, cpu=cpu, default=derived(functools.partial(_plain, strides=strides, padding=padding))
    )


_convolved.defvjp(_forward, _backward)


def convolve(
    x: jax.Array, kernel: jax.Array, window_strides: Sequence[int], padding: Sequence[tuple[int, int]], **settings: Any
) -> jax.Array:
    """Convolve like `jax.lax.conv_general_dilated`, NHWC with HWIO; on a CPU faster for the paper's networks.

    Args:
      x: [N, H, W, in].
      kernel: [rows, columns, in, out].
      window_strides: of the rows and the columns.
      padding: before and after, of the rows and the columns.
      **settings: other arguments from `nn.Conv`; no source network changes them.

    Returns:
      [N, H', W', out], with the dtype of x.
    """
    if _PLAIN.get():
        return jax.lax.conv_general_dilated(x, kernel, window_strides, padding, **settings)
    strides, padding = tuple(window_strides), tuple((before, after) for before, after in padding)
    size = kernel.shape[:2]
    winograd_fits = (
        size == (3, 3)
        and strides == (1, 1)
        and padding == ((1, 1), (1, 1))
        and (x.size * kernel.size / kernel.shape[2] >= LARGE)
    )
    if x.dtype == "float32" and (winograd_fits or size == (1, 1) and padding == ((0, 0), (0, 0))):
        return _convolved(x, kernel, strides, padding)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **settings)
