"""A step over all devices, compiled ahead of time, and how its arguments get to the devices."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flax_augtl.errors import UserError
from flax_augtl.training.step import AXIS


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of a compiled step on each device, as its compiler counts it, in bytes.

    Attributes:
      arguments: what the step reads.
      results: what it returns, where that does not take the place of an argument.
      temporary: what it needs in between.
    """

    arguments: int
    results: int
    temporary: int

    @property
    def total(self) -> int:
        """The sum of all fields."""
        return self.arguments + self.results + self.temporary


class CompiledStep:
    """A pmapped step compiled for arguments of certain shapes; it is called with the arguments of one process."""

    def __init__(self, compiled: jax.stages.Compiled, arguments: int, local: bool = False):
        self._compiled = compiled
        # pmap's own program takes global arrays, so that several processes put theirs together here, as pmap does.
        self._mesh = _mesh() if jax.process_count() > 1 and not local else None
        self._specs = [PartitionSpec(AXIS) if index == 1 else PartitionSpec() for index in range(arguments)]

    @property
    def memory(self) -> Memory | None:
        """The memory that the step takes; None if the compiler does not tell."""
        found = self._compiled.memory_analysis()
        if found is None or not found.argument_size_in_bytes:
            return None
        return Memory(
            found.argument_size_in_bytes,
            found.output_size_in_bytes - found.alias_size_in_bytes,
            found.temp_size_in_bytes,
        )

    def __call__(self, *arguments: Any) -> Any:
        """Take the step."""
        if self._mesh is None:
            return self._compiled(*arguments)
        shared = [
            multihost_utils.host_local_array_to_global_array(argument, self._mesh, spec)
            for argument, spec in zip(arguments, self._specs, strict=True)
        ]
        return multihost_utils.global_array_to_host_local_array(self._compiled(*shared), self._mesh, PartitionSpec())


class PmappedStep:
    """A step over all devices, compiled once for each shape of its arguments.

    The second argument is a batch [devices, b, ...]. No other argument, and no result, is stacked over devices.
    """

    def __init__(self, step: Callable, arguments: int, *, donates: bool = False, local: bool = False):
        """Map a step over the devices.

        Args:
          step: takes the arguments of one device, and may use the axis `AXIS`.
          arguments: their number.
          donates: whether the step may overwrite its first argument.
          local: whether only the devices of this process take part, whatever other processes do.
        """
        axes = tuple(0 if index == 1 else None for index in range(arguments))
        self.pmapped: Any = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=axes,
            out_axes=None,
            donate_argnums=(0,) if donates else (),
            devices=jax.local_devices() if local and jax.process_count() > 1 else None,
        )
        self._arguments, self._local = arguments, local
        self._compiled: dict[Any, CompiledStep] = {}

    def compiled(self, *arguments: Any) -> CompiledStep:
        """Return the step compiled for arguments of these shapes; it is compiled in the first call for them."""
        leaves, tree = jax.tree.flatten(arguments)
        shapes = tree, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)
        if shapes not in self._compiled:
            self._compiled[shapes] = CompiledStep(
                self.pmapped.lower(*arguments).compile(), self._arguments, self._local
            )
        return self._compiled[shapes]

    def __call__(self, *arguments: Any) -> Any:
        """Take the step."""
        return self.compiled(*arguments)(*arguments)


def _mesh() -> Mesh:
    """Return all devices of all processes in the order of pmap."""
    processes = range(jax.process_count())
    return Mesh([device for process in processes for device in jax.local_devices(process_index=process)], (AXIS,))


def replicate(tree: Any) -> Any:
    """Put a copy of every array on every local device, as the pmapped steps leave their own state."""
    mesh = Mesh(jax.local_devices(), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_over_devices(batch: Mapping[str, Any], devices: int) -> dict[str, Any]:
    """Reshape every array [b, ...] of a host's batch to [devices, b / devices, ...].

    Raises:
      UserError: b is not divisible by the number of devices.
    """
    size = len(batch["label"])
    if size % devices:
        raise UserError(
            f"A batch of {size} images does not divide by {devices} devices: set config.batch_size to a "
            f"multiple of {devices}."
        )
    return jax.tree.map(lambda array: array.reshape(devices, -1, *array.shape[1:]), dict(batch))
