"""The memory of a training step, as its compiler counts it, and advice if a device has too little of it."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from flax_augtl.config.schema import Config
from flax_augtl.errors import UserError
from flax_augtl.training.pmapped import CompiledStep
from flax_augtl.training.state import TrainState


class OutOfMemory(UserError):
    """A device, or the host, has too little memory for the run."""


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Memory of the training step on each device, in bytes.

    Attributes:
      parameters: the whole network, with its running statistics.
      optimizer: the state of the optimizer.
      batch: one device's share of the batch, and the dataset if it lives on the device.
      computation: all else, as the compiler counts it: activations, gradients and other temporary values.
    """

    parameters: int
    optimizer: int
    batch: int
    computation: int

    @property
    def total(self) -> int:
        """The sum of all fields."""
        return sum(dataclasses.asdict(self).values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {_amount(value)}" for name, value in dataclasses.asdict(self).items())
        return f"Memory on each device, as the compiler counts it, {_amount(self.total)}: {parts}."


def memory_of_step(step: CompiledStep, state: TrainState, batch: Any, rate: Any, pool: Any) -> StepMemory | None:
    """Return the memory of a compiled training step; None if the compiler does not tell.

    Args:
      step: the compiled step.
      state: what it is called with, as the other arguments.
      batch: this process' batch.
      rate: the learning rate.
      pool: the dataset on the device, if it lives there.
    """
    if (found := step.memory) is None:
        return None
    parameters, optimizer = _size((state.params, state.batch_stats)), _size(state.opt_state)
    share = _size(batch) // jax.local_device_count() + _size(pool)
    return StepMemory(parameters, optimizer, share, max(0, found.total - parameters - optimizer - share))


def _size(tree: Any) -> int:
    """Return the bytes of a tree of arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def most_in_use() -> str:
    """Return a sentence about the peak memory of a device; empty if the devices do not count it."""
    counts = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    if not counts:
        return ""
    most = max(counts, key=lambda stats: stats["peak_bytes_in_use"])
    limit = f" of {_amount(most['bytes_limit'])}" if "bytes_limit" in most else ""
    return f"Peak memory of a device: {_amount(most['peak_bytes_in_use'])}{limit}."


@contextlib.contextmanager
def explain_out_of_memory(config: Config) -> Iterator[None]:
    """Replace an out-of-memory error, of a device or of the host, by one that names settings that help.

    Raises:
      OutOfMemory: in place of the error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
            raise
        raise OutOfMemory(
            f"There is not enough memory ({str(error).splitlines()[0].rstrip('.')}). {_advice(config)}"
        ) from error
    except MemoryError as error:
        raise OutOfMemory(
            f"The host has not enough memory ({str(error).rstrip('.') or 'it was not said for what'}). What "
            "would help: config.data.cache=file or none, config.features.cache=file, config.study.cache=file; fewer "
            f"config.data.threads or workers; a config.batch_size below {config.batch_size}; a smaller "
            "config.image_size; fewer steps."
        ) from error


def _advice(config: Config) -> str:
    """Return settings that would save memory, the cheapest first."""
    advice = [f"config.accumulate={2 * config.accumulate} (micro-batches of half the size; the same batch)"]
    if not config.remat:
        advice.append("config.remat=True (activations are computed twice instead of kept)")
    if config.compute_dtype != "bfloat16":
        advice.append("config.compute_dtype=bfloat16 (half the size of activations)")
    if config.freeze != "all":
        advice.append(f"a deeper config.freeze than {config.freeze} (frozen layers keep no activations)")
    advice.append(f"a config.batch_size below {config.batch_size}")
    advice.append("a smaller config.image_size")
    if config.features.cache == "device":
        advice.append("config.features.cache=memory (kept features stay on the host)")
    if config.data.cache == "device":
        advice.append("config.data.cache=auto (the dataset stays on the host)")
    return "What would help, the cheapest first: " + "; ".join(advice) + "."


def _amount(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
