"""A run as a StableHLO program: `jax.export` for CPUs, NVIDIA GPUs and TPUs in one artifact, with its weights in it."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flax_augtl.export.forward import forward
from flax_augtl.export.settings import ExportSettings
from flax_augtl.models.augmented import AugmentedNetwork
from flax_augtl.pretrained import Preprocessing
from flax_augtl.trust.familiarity import Familiarity

PLATFORMS = ("cpu", "cuda", "tpu")
WINDOW = (
    "A JAX that is up to 6 months younger than the one that wrote such a file reads it, and one that is up to 3 weeks "
    "older: that is what JAX promises. Export again, or use ONNX, for what must last longer."
)


def stablehlo_program(
    network: AugmentedNetwork,
    variables: Mapping[str, Any],
    preprocessing: Preprocessing,
    settings: ExportSettings,
    temperature: float | None = None,
    familiarity: Familiarity | None = None,
) -> bytes:
    """Return a serialised `jax.export.Exported`: images [N, S, S, 3] -> {output: float32 [N, ...]}, N free.

    Args:
      network: of the run.
      variables: of the network, as `forward.stored` returns them.
      preprocessing: of the run.
      settings: input and outputs.
      temperature: what logits are divided by before the softmax, None for a network that is not calibrated.
      familiarity: see `forward`.
    """
    from jax import export  # Not an attribute of `jax` until it is imported.

    function = forward(network, preprocessing, settings, temperature, familiarity)
    (count,) = export.symbolic_shape("N")
    size = preprocessing.image_size
    images = jax.ShapeDtypeStruct((count, size, size, 3), np.uint8 if settings.input == "uint8" else np.float32)
    program = jax.jit(lambda images: function(variables, images))
    return bytes(export.export(program, platforms=PLATFORMS)(images).serialize())
