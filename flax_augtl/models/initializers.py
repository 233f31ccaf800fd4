"""Random initial variables, as torchvision initialises its networks."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from flax_augtl.models.base import SourceNetwork
from flax_augtl.models.parameters import layout
from flax_augtl.models.resnet import ResNet


def random_variables(model: SourceNetwork, seed: int = 0) -> dict[str, Any]:
    """Draw the variables of a network from the distributions that `model.init` draws from.

    NumPy draws them: compiling `model.init` takes ten to thirty seconds, longer than a short training run.

    Args:
      model: from `create_model`.
      seed: the same seed gives the same values.

    Returns:
      {"params": …, "batch_stats": …} of float32 arrays on the default device.
    """
    random = np.random.default_rng(seed)
    flat: dict[tuple[str, ...], Any] = {}
    inputs: Mapping[tuple[str, ...], int] = {
        slot.path[:-1]: slot.shape[1] for slot in layout(model).values() if slot.kind == "dense"
    }
    for slot in layout(model).values():
        layer, leaf = slot.path[:-1], slot.path[-1]
        if slot.kind == "conv":
            outputs, _, height, width = slot.shape
            shape = (height, width, slot.shape[1], outputs)
            value = random.standard_normal(shape, np.float32) * np.float32((2 / (height * width * outputs)) ** 0.5)
        elif layer in inputs and isinstance(model, ResNet):
            bound = np.float32(inputs[layer] ** -0.5)
            value = (2 * random.random(slot.shape[::-1], np.float32) - 1) * bound
        elif slot.kind == "dense":
            value = random.standard_normal(slot.shape[::-1], np.float32) * np.float32(0.01)
        else:
            value = np.full(slot.shape, leaf in ("scale", "var"), np.float32)
        flat[slot.path] = jax.device_put(value)
    return unflatten_dict(flat)
