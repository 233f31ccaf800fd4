"""The layers that every source network is made of, with PyTorch's numerics.

Arrays are NHWC; kernels are HWIO (convolution) and [in, out] (dense). Parameters and running statistics are
float32 whatever the compute dtype.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from flax_augtl.models.conv import convolve

# Both are torchvision's: each output unit keeps the variance of the gradient through a ReLU, and PyTorch's own
# default for a linear layer, which is uniform within 1 / sqrt(inputs).
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
linear_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def linear_bias_init(inputs: int):
    """Return an initialiser of a bias that is uniform within 1 / sqrt(inputs), as `torch.nn.Linear` has it."""

    def init(key, shape, dtype=jnp.float32):
        bound = inputs**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def bias_in_float32(*arrays: jax.Array | None, dtype, inexact: bool = True) -> tuple[jax.Array | None, ...]:
    """Promote what a layer reads to its compute dtype, but for the bias, which comes last.

    The gradient of a bias is a sum over the examples, and the positions, of a batch: too many for a sum in bfloat16.
    What the layer returns is then float32, and the caller rounds it.
    """
    *others, bias = arrays
    return (*nn.dtypes.promote_dtype(*others, dtype=dtype, inexact=inexact), bias)


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

    Momentum 0.9 is PyTorch's 0.1. The running variance is the biased one, as Flax keeps it (PyTorch keeps the
    unbiased one: a factor n / (n - 1), where n is examples times positions). The variance is that of the centred
    values: the faster E[x²] − E[x]² turns to noise in a channel that hardly varies.
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
    """Return a module class, called (x, train), that keeps nothing of its inside for the backward pass, if so wanted."""
    return nn.remat(module, static_argnums=(2,)) if wanted else module
