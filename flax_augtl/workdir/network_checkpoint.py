"""The network in a run's checkpoints: what changes is in each of them, what is frozen is kept once beside them.

    checkpoints/20/network    the trained layer groups at step 20
    frozen/                   the frozen ones, the same at every step

A run of an earlier version, or one that freezes nothing, has the whole network in each checkpoint and no `frozen`.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from flax_augtl.runtime import distributed, library_noise
from flax_augtl.workdir import checkpoint_index, checksums, files

NETWORK = "network"


def split(network: Mapping[str, Any], frozen: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the part of a network that changes, and the part that does not.

    Args:
      network: {"params", "batch_stats"}, the layer groups of the source network below "source".
      frozen: the layer groups that are frozen.
    """

    def part(keep: bool) -> dict[str, Any]:
        flat = traverse_util.flatten_dict(dict(network))
        return traverse_util.unflatten_dict(
            {
                path: leaf
                for path, leaf in flat.items()
                if (len(path) > 2 and path[1] == "source" and path[2] in frozen) is not keep
            }
        )

    return part(True), part(False)


def write_frozen(checkpoints: epath.Path, frozen: Mapping[str, Any]) -> None:
    """Write the frozen part of a network, unless it is there and sound; every process calls this.

    Args:
      checkpoints: the directory of the checkpoints.
      frozen: as `split` returns it; of several processes in arrays that all of them hold.
    """
    directory = _frozen(checkpoints)
    if distributed.first_decides(lambda: directory.exists() and not checksums.damage(directory)):
        return
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory, frozen, force=True)
    if distributed.is_first():
        checkpoint_index.check(directory, checkpoint_index.names_of(frozen))
        checksums.write(directory)


def remove_frozen(checkpoints: epath.Path) -> None:
    """Remove the frozen part, as no checkpoint is left that it belongs to; the first process does."""
    directory = _frozen(checkpoints)
    if distributed.is_first() and directory.exists():
        directory.rmtree()


def frozen_damage(checkpoints: epath.Path) -> str:
    """Return what is wrong with the frozen part, as a phrase; the empty string if it is sound or there is none."""
    directory = _frozen(checkpoints)
    reason = checksums.damage(directory) if directory.exists() else ""
    return f"of the frozen weights in {directory.name}/, {reason}" if reason else ""


def shapes(checkpoints: epath.Path, step: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return the shape of every array of the network at a step, by its path, without reading the arrays."""
    return {
        path: tuple(leaf.shape)
        for directory in _directories(checkpoints, step)
        for path, leaf in traverse_util.flatten_dict(_written(directory)).items()
        if hasattr(leaf, "shape")
    }


def read(checkpoints: epath.Path, step: int) -> dict[str, Any]:
    """Return the network at a step, {"params", "batch_stats"} of arrays of the host, whatever devices wrote them."""
    flat: dict[tuple[str, ...], np.ndarray] = {}
    with library_noise.reading(), ocp.StandardCheckpointer() as checkpointer:
        for directory in _directories(checkpoints, step):
            like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), _written(directory))
            flat |= traverse_util.flatten_dict(jax.tree.map(np.asarray, checkpointer.restore(directory, like)))
    return {"params": {}, "batch_stats": {}, **traverse_util.unflatten_dict(flat)}


def _directories(checkpoints: epath.Path, step: int) -> list[epath.Path]:
    """Return where the arrays are; what a checkpoint has itself comes last and wins."""
    frozen = _frozen(checkpoints)
    return [*([frozen] if frozen.exists() else []), checkpoints / str(step) / NETWORK]


def _frozen(checkpoints: epath.Path) -> epath.Path:
    return checkpoints.parent / files.FROZEN


def _written(directory: epath.Path) -> Any:
    with library_noise.reading(), ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.metadata(directory).item_metadata.tree
