"""The precision of a device's computations, if it is not the one that the configuration says."""

from typing import Any

import jax

_JAX_CONFIG: Any = jax.config  # JAX adds its attributes at runtime.
# Settings of `jax_default_matmul_precision` with which GPUs that have TensorFloat-32 use it for float32.
_SHORT = (None, "default", "fastest", "high", "tensorfloat32", "TF32_TF32_F32")
_AMPERE = 8.0


def fewer_bits(dtype: str, device: Any = None) -> str:
    """Return a sentence if a device computes float32 with fewer bits, otherwise an empty string.

    Args:
      dtype: `config.compute_dtype`.
      device: the device; None for the first one of this process.
    """
    device = jax.local_devices()[0] if device is None else device
    if str(dtype) != "float32" or _JAX_CONFIG.jax_default_matmul_precision not in _SHORT:
        return ""
    if device.platform == "gpu" and _capability(device) >= _AMPERE:
        return (
            "TF32 is used: convolutions and matrix products of float32 read 10 bits of the mantissa on this GPU, and "
            "add in float32. JAX_DEFAULT_MATMUL_PRECISION=highest computes them in float32, at a fraction of the speed."
        )
    if device.platform == "tpu" and _JAX_CONFIG.jax_default_matmul_precision in (None, "default", "fastest"):
        return (
            "Convolutions and matrix products of float32 read bfloat16 on a TPU, and add in float32. "
            "JAX_DEFAULT_MATMUL_PRECISION=highest computes them in float32, at a fraction of the speed."
        )
    return ""


def _capability(device: Any) -> float:
    """Return the CUDA compute capability of a device, such as 9.0; 0 if it has none."""
    try:
        return float(getattr(device, "compute_capability", 0))
    except ValueError:  # AMD's is a name, such as gfx90a.
        return 0.0
