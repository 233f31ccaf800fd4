"""What precision a device computes in, where that is not what the configuration says."""

from typing import Any

import jax

# Settings of `jax_default_matmul_precision` with which float32 is computed in TensorFloat-32 on a GPU that has it.
_SHORT = (None, "default", "fastest", "high", "tensorfloat32", "TF32_TF32_F32")
_AMPERE = 8.0


def fewer_bits(dtype: str, device: Any | None = None) -> str:
    """Return a sentence on float32 that a device computes with fewer bits; empty where it does not.

    Args:
      dtype: `config.compute_dtype`.
      device: that computes; None for the first one of this process.
    """
    device = jax.local_devices()[0] if device is None else device
    if str(dtype) != "float32" or jax.config.jax_default_matmul_precision not in _SHORT:
        return ""
    if device.platform == "gpu" and _capability(device) >= _AMPERE:
        return (
            "TF32 is used: convolutions and matrix products of float32 read 10 bits of the mantissa on this GPU, and "
            "add in float32. JAX_DEFAULT_MATMUL_PRECISION=highest computes them in float32, at a fraction of the speed."
        )
    if device.platform == "tpu" and jax.config.jax_default_matmul_precision in (None, "default", "fastest"):
        return (
            "Convolutions and matrix products of float32 read bfloat16 on a TPU, and add in float32. "
            "JAX_DEFAULT_MATMUL_PRECISION=highest computes them in float32, at a fraction of the speed."
        )
    return ""


def _capability(device: Any) -> float:
    """Return the CUDA compute capability of a device, such as 9.0; 0 where it has none."""
    try:
        return float(getattr(device, "compute_capability", 0))
    except ValueError:  # AMD's is a name, such as gfx90a.
        return 0.0
