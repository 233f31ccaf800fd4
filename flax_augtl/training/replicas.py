"""A check that every device of every host holds the same state."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.errors import UserError
from flax_augtl.training.step import AXIS


def check_replicas(state: Any, step: int) -> None:
    """Raise ValueError unless all devices of all processes hold the same bits of a state that they should share.

    Args:
      state: a tree of arrays, as the pmapped step left it.
      step: for the message.
    """
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(state)
    ]
    same = np.asarray(_compare()(jax.tree.leaves(state), np.zeros(jax.local_device_count(), np.uint8)))
    if different := [path for path, equal in zip(paths, same, strict=True) if not equal]:
        raise UserError(
            f"After step {step} the state is not the same on all devices: {len(different)} of {len(paths)} "
            f"arrays differ, the first is {different[0]}. Nothing of it can be trusted: go on from an earlier "
            "checkpoint, and report this with the configuration."
        )


@functools.cache
def _compare():
    """Return a pmapped function: leaves, each device's own -> bool [leaves], the same everywhere."""

    def compare(leaves, _):
        sums = jnp.stack([_checksum(leaf) for leaf in leaves])
        return jax.lax.pmax(sums, AXIS) == jax.lax.pmin(sums, AXIS)

    return jax.pmap(compare, axis_name=AXIS, in_axes=(None, 0), out_axes=None)


def _checksum(leaf: jax.Array) -> jax.Array:
    """Return a uint32 that depends on every bit of an array and on its place."""
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[leaf.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32).reshape(-1)
    # Odd factors keep every bit; a plain sum would not see two values that changed places.
    factors = 2 * jax.lax.iota(jnp.uint32, bits.size) + 1
    return jnp.sum((bits ^ (bits >> 15)) * factors, dtype=jnp.uint32)
