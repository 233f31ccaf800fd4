"""The network in a run's checkpoints: each has the trained layer groups; the frozen ones are written once.

    checkpoints/20/network    the trained layer groups at step 20
    frozen/                   the frozen layer groups, the same at every step

A run of an earlier version, or without frozen layers, has the whole network in each checkpoint and no `frozen`.
"""

from collections.abc import Collection, Mapping
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from flax_augtl.runtime import distributed, library_noise
from flax_augtl.workdir import checkpoint_index, checksums, files

NETWORK = "network"


def split(network: Mapping[str, Any], frozen: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the trained part of a network and the frozen part.

    Args:
      network: {"params", "batch_stats"}; the source network's layer groups are below "source".
      frozen: the frozen layer groups.
    """

    def part(keep: bool) -> dict[str, Any]:
        flat = _flat(dict(network))
        return traverse_util.unflatten_dict(
            {
                path: leaf
                for path, leaf in flat.items()
                if (len(path) > 2 and path[1] == "source" and path[2] in frozen) is not keep
            }
        )

    return part(True), part(False)


def write_frozen(checkpoints: epath.Path, frozen: Mapping[str, Any]) -> None:
    """Write the frozen part of a network, unless it exists and is not damaged; every process must call this.

    Args:
      checkpoints: the directory of the checkpoints.
      frozen: the frozen part from `split`; if there are several processes, as arrays that all of them hold.
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
    """Remove the frozen part, in the first process, because no checkpoint is left that needs it."""
    directory = _frozen(checkpoints)
    if distributed.is_first() and directory.exists():
        directory.rmtree()


def frozen_damage(checkpoints: epath.Path) -> str:
    """Return how the frozen part is damaged, as a phrase; the empty string if it is not, or does not exist."""
    directory = _frozen(checkpoints)
    reason = checksums.damage(directory) if directory.exists() else ""
    return f"of the frozen weights in {directory.name}/, {reason}" if reason else ""


def shapes(checkpoints: epath.Path, step: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return the shape of every array of the network at a step, by its path, without reading the arrays."""
    return {
        path: shape
        for directory in _directories(checkpoints, step)
        for path, shape in shapes_of(_written(directory)).items()
    }


def shapes_of(tree: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return the shape of every array in a nested dictionary, by its path."""
    return {path: tuple(leaf.shape) for path, leaf in _flat(tree).items() if hasattr(leaf, "shape")}


def _flat(tree: Any) -> dict[tuple[str, ...], Any]:
    """Return the leaves of a nested dictionary by their paths; Flax's own annotation takes leaves for dictionaries."""
    return cast(dict[tuple[str, ...], Any], traverse_util.flatten_dict(tree))


def read(checkpoints: epath.Path, step: int) -> dict[str, Any]:
    """Return the network at a step, {"params", "batch_stats"}, as host arrays, whatever devices wrote them."""
    flat: dict[tuple[str, ...], np.ndarray] = {}
    with library_noise.reading(), ocp.StandardCheckpointer() as checkpointer:
        for directory in _directories(checkpoints, step):
            like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), _written(directory))
            flat |= _flat(jax.tree.map(np.asarray, checkpointer.restore(directory, like)))
    return {"params": {}, "batch_stats": {}, **traverse_util.unflatten_dict(flat)}


def _directories(checkpoints: epath.Path, step: int) -> list[epath.Path]:
    """Return the directories of the arrays; the checkpoint's own comes last and takes precedence."""
    frozen = _frozen(checkpoints)
    return [*([frozen] if frozen.exists() else []), checkpoints / str(step) / NETWORK]


def _frozen(checkpoints: epath.Path) -> epath.Path:
    return checkpoints.parent / files.FROZEN


def _written(directory: epath.Path) -> Any:
    with library_noise.reading(), ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.metadata(directory).item_metadata.tree
