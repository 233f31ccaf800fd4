"""Random initial variables, as torchvision initialises its networks."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from flax_augtl.models.base import SourceNetwork
from flax_augtl.models.parameters import Slot

# The axes of a published tensor in Linen's order.
_LINEN = {"conv": (2, 3, 1, 0), "dense": (1, 0), "vector": (0,)}


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
    draws = {"conv": model.draw_conv, "dense": model.draw_dense}
    kernels: Mapping[tuple[str, ...], Slot] = {slot.path[:-1]: slot for slot in slots if slot.type in draws}
    for slot in slots:
        layer, leaf = slot.path[:-1], slot.path[-1]
        if layer in kernels:
            kernel = kernels[layer]
            shape = tuple(slot.shape[axis] for axis in _LINEN[slot.type])
            value = draws[kernel.type](random, shape, int(np.prod(kernel.shape[1:])))
        else:
            value = np.full(slot.shape, leaf in ("scale", "var"), np.float32)
        flat[slot.path] = jax.device_put(value)
    return unflatten_dict(flat)
