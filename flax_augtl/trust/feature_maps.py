"""The outputs of layer groups with their places: also where the network averages or flattens them at once."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flax_augtl.models.augmented import AugmentedNetwork


def with_map(
    network: AugmentedNetwork,
    variables: Mapping[str, Any],
    x: jax.Array,
    group: str,
    *,
    stop: int | None = None,
    change: jax.Array | None = None,
) -> tuple[Any, jax.Array | None]:
    """Run the network, and return its output and the feature map of a layer group.

    The top-level names of a network's variables are its layer groups, so the module of a group has the name of the
    group. Some networks average or flatten what that module returns before the next group reads it.

    Args:
      network: the network.
      variables: its variables.
      x: normalised images [N, H, W, 3].
      group: a layer group of the source network.
      stop: how many layer groups to run; None for all.
      change: [N, h, w, C], is added to the feature map.

    Returns:
      (the output of the network; what the module of the group returns, [N, h, w, C], or None if that has no places).
    """
    maps: list[jax.Array] = []

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        found = call(*args, **kwargs)
        if context.method_name != "__call__" or context.module.path != ("source", group) or found.ndim != 4:
            return found
        maps.append(found)
        return found if change is None else found + change.astype(found.dtype)

    with nn.intercept_methods(intercept):
        output = network.apply(variables, x, 0, stop)
    return output, maps[0] if maps else None


@functools.lru_cache(maxsize=64)
def last_map(network: Any) -> tuple[str, tuple[int, ...], bool]:
    """Return the topmost layer group that has a feature map.

    Returns:
      (its name; [h, w, C] of the map for the smallest image; whether the next layer group reads the map's global
      average).
    """
    size = max(network.source.smallest_image, 1)
    images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    shapes = jax.eval_shape(
        lambda: network.init({"params": jax.random.key(0)}, np.zeros((1, size, size, 3), np.float32))
    )
    variables = {"batch_stats": {}, **shapes}
    groups = network.source.groups
    for index in reversed(range(len(groups))):
        output, found = jax.eval_shape(
            lambda variables, x, index=index: with_map(network, variables, x, groups[index], stop=index + 1),
            variables,
            images,
        )
        if found is not None:
            top = output["top"] if isinstance(output, Mapping) else output
            return groups[index], found.shape[1:], top.shape[1:] == found.shape[-1:]
    raise AssertionError("every network has a layer group of convolutions")
