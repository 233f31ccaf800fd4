"""The layers of all source networks, with PyTorch's numerics.

Arrays are NHWC; kernels are HWIO (convolution) and [in, out] (dense). Parameters and running statistics are float32
whatever the compute dtype.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from flax_augtl.models.conv import convolve

# Both are torchvision's: the first keeps the variance of the gradient through a ReLU; the second is PyTorch's default
# for a linear layer, uniform within 1 / sqrt(inputs).
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
linear_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def linear_bias_init(inputs: int):
    """Return the initialiser of a bias that is uniform within 1 / sqrt(inputs), as in `torch.nn.Linear`."""

    def init(key, shape, dtype=jnp.float32):
        bound = inputs**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def bias_in_float32(*args: jax.Array | None, dtype: Any = None, inexact: bool = True) -> list[jax.Array | None]:
    """Promote the inputs and the kernel of a layer to its compute dtype, but not its bias, the last argument.

    The gradient of a bias is a sum over the examples, and the positions, of a batch: too many for a sum in bfloat16.
    The layer then returns float32, and the caller rounds it.
    """
    *others, bias = args
    return [*promote_dtype(*others, dtype=dtype, inexact=inexact), bias]


def conv(features: int, size: int, stride: int = 1, *, bias: bool, dtype, name: str) -> nn.Conv:
    """Return a square convolution padded by `size // 2` on every side.

    With a bias it returns float32; the caller rounds that to the compute dtype.
    The padding is explicit because "SAME" pads at the end first when the stride is 2, and PyTorch pads both sides.
    """
    pad = size // 2
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=bias,
        dtype=dtype,
        kernel_init=conv_init,
        conv_general_dilated=convolve,
        promote_dtype=bias_in_float32,
        name=name,
    )


def batch_norm(train: bool, *, epsilon: float, dtype, axis_name: str | None, name: str) -> nn.BatchNorm:
    """Return a batch normalisation; in training it uses the statistics of the batch over all of `axis_name`.

    Momentum 0.9 is PyTorch's 0.1. Flax keeps the biased running variance; PyTorch keeps the unbiased one, which is
    larger by n / (n - 1), where n is examples times positions. The variance is computed from the centred values: the
    faster E[x²] − E[x]² turns into noise in a channel that hardly varies.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=epsilon,
        dtype=dtype,
        axis_name=axis_name,
        use_fast_variance=False,
        name=name,
    )


def rematerialised(module: type[nn.Module], wanted: bool) -> type[nn.Module]:
    """Return a module class with calls (x, train); if `wanted`, it keeps no inner values for the backward pass."""
    return nn.remat(module, static_argnums=(2,)) if wanted else module
