"""A check that every device of every host holds the same state."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.errors import UserError
from flax_augtl.training.step import AXIS


def check_replicas(state: Any, step: int) -> None:
    """Check that all devices of all processes hold the same bits of a state.

    Args:
      state: a tree of arrays that the pmapped step returned.
      step: number of the step, for the message.

    Raises:
      UserError: they do not.
    """
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(state)
    ]
    same = np.asarray(_compare()(jax.tree.leaves(state), np.zeros(jax.local_device_count(), np.uint8)))
    if different := [path for path, equal in zip(paths, same, strict=True) if not equal]:
        raise UserError(
            f"After step {step} the state is not the same on all devices: {len(different)} of {len(paths)} "
            f"arrays differ, the first is {different[0]}. None of it can be trusted: resume from an earlier "
            "checkpoint, and report this with the configuration."
        )


@functools.cache
def _compare():
    """Return a pmapped function: leaves on each device -> bool [leaves], whether all devices have the same."""

    def compare(leaves, _):
        sums = jnp.stack([_checksum(leaf) for leaf in leaves])
        return jax.lax.pmax(sums, AXIS) == jax.lax.pmin(sums, AXIS)

    return jax.pmap(compare, axis_name=AXIS, in_axes=(None, 0), out_axes=None)


def _checksum(leaf: jax.Array) -> jax.Array:
    """Return a uint32 that depends on every bit of an array and on the bit's position."""
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[leaf.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32).reshape(-1)
    # Odd factors keep every bit; a plain sum would not notice that two values are swapped.
    factors = 2 * jax.lax.iota(jnp.uint32, bits.size) + 1
    return jnp.sum((bits ^ (bits >> 15)) * factors, dtype=jnp.uint32)
