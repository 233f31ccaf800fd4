"""Random initial variables, as torchvision initialises its networks."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from flax_augtl.models.base import SourceNetwork


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
    slots = model.slots().values()
    inputs: Mapping[tuple[str, ...], int] = {slot.path[:-1]: slot.shape[1] for slot in slots if slot.type == "dense"}
    for slot in slots:
        layer, leaf = slot.path[:-1], slot.path[-1]
        if slot.type == "conv":
            outputs, _, height, width = slot.shape
            shape = (height, width, slot.shape[1], outputs)
            value = random.standard_normal(shape, np.float32) * np.float32((2 / (height * width * outputs)) ** 0.5)
        elif layer in inputs:
            value = model.draw_dense(random, slot.shape[::-1], inputs[layer])
        else:
            value = np.full(slot.shape, leaf in ("scale", "var"), np.float32)
        flat[slot.path] = jax.device_put(value)
    return unflatten_dict(flat)
