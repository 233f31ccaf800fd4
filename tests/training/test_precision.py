"""What the log says about float32 that a device computes with fewer bits."""

from types import SimpleNamespace

import jax
import pytest

from flax_augtl.training.precision import fewer_bits

H100 = SimpleNamespace(platform="gpu", compute_capability="9.0")


@pytest.mark.parametrize(
    ("device", "dtype", "precision", "start"),
    [
        (H100, "float32", None, "TF32 is used"),
        (H100, "float32", "tensorfloat32", "TF32 is used"),
        (H100, "float32", "highest", ""),
        (H100, "float32", "float32", ""),
        (H100, "bfloat16", None, ""),
        (SimpleNamespace(platform="gpu", compute_capability="7.5"), "float32", None, ""),
        (SimpleNamespace(platform="gpu", compute_capability="gfx90a"), "float32", None, ""),
        (SimpleNamespace(platform="cpu"), "float32", None, ""),
        (SimpleNamespace(platform="tpu"), "float32", None, "Convolutions and matrix products of float32 read bfloat16"),
        (SimpleNamespace(platform="tpu"), "float32", "high", ""),
    ],
)
def test_fewer_bits_are_said(device, dtype, precision, start):
    with jax.default_matmul_precision(precision):
        said = fewer_bits(dtype, device)
    assert said.startswith(start) and bool(said) == bool(start)
    assert not said or "JAX_DEFAULT_MATMUL_PRECISION=highest" in said
