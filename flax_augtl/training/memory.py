"""The memory of a training step, estimated before compilation, and advice if a device has too little of it."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from flax_augtl.config.schema import Config
from flax_augtl.errors import UserError
from flax_augtl.training import liveness
from flax_augtl.training.experiment import Experiment
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.state import TrainState
from flax_augtl.training.step import pmapped_train_step


class OutOfMemory(UserError):
    """A device, or the host, has too little memory for the run."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Memory on each device, in bytes.

    Attributes:
      parameters: the whole network, with its running statistics.
      optimizer: the state of the optimizer.
      batch: one device's share of the batch, and the dataset if it lives on the device.
      gradients: the gradients of the trainable parameters.
      activations: the activations that a micro-batch keeps for the backward pass, and its temporary values.
    """

    parameters: int
    optimizer: int
    batch: int
    gradients: int
    activations: int

    @property
    def total(self) -> int:
        """The sum of all fields."""
        return sum(dataclasses.asdict(self).values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {_amount(value)}" for name, value in dataclasses.asdict(self).items())
        return f"Memory on each device, about {_amount(self.total)}: {parts}."


def estimate(experiment: Experiment, *, platform: str | None = None) -> Estimate:
    """Estimate the memory of an experiment's training step, which is traced, not compiled.

    Args:
      experiment: the experiment.
      platform: cpu, gpu or tpu; None for the one that JAX uses.
    """
    state, batch, pool = shapes(experiment)
    step = pmapped_train_step(
        experiment.network, experiment.plan, experiment.optimizer, experiment.preprocessing, experiment.step
    )
    platform = platform or jax.default_backend()
    traced = jax.make_jaxpr(step)(state, batch, jax.ShapeDtypeStruct((), np.float32), pool).jaxpr
    peak = liveness.peak(liveness.on_each_device(traced), platform=platform)
    gradients = liveness.size_of(experiment.plan.partition(state.params)[0])
    return Estimate(
        parameters=liveness.size_of((state.params, state.batch_stats)),
        optimizer=liveness.size_of(state.opt_state),
        batch=liveness.size_of(batch) // jax.local_device_count() + liveness.size_of(pool),
        # XLA's CPU compiler holds the gradient of a kernel twice, as computed and transposed.
        gradients=gradients * (2 if platform == "cpu" and experiment.step.accumulate == 1 else 1),
        activations=max(0, peak - gradients),
    )


def shapes(experiment: Experiment) -> tuple[TrainState, dict[str, Any], dict[str, Any] | None]:
    """Return the shapes of the pmapped step's inputs: the state, a host's batch, and the dataset on the device."""
    of = jax.ShapeDtypeStruct
    params, batch_stats = (
        jax.tree.map(lambda leaf: of(leaf.shape, leaf.dtype), experiment.variables[name])
        for name in ("params", "batch_stats")
    )
    trainable, _ = experiment.plan.partition(params)
    state = TrainState(
        step=of((), np.int32),
        params=params,
        batch_stats=batch_stats,
        rng=of((2,), np.uint32),
        opt_state=jax.eval_shape(create_optimizer(experiment.optimizer, experiment.plan).init, trainable),
    )
    lead = (jax.local_device_count(), experiment.config.batch_size // jax.device_count())
    side, pool = experiment.preprocessing.image_size, experiment.pool
    images = (
        {"image": of((*lead, side, side, 3), np.uint8)}
        if pool is None
        else {"index": of(lead, np.int32), "box": of((*lead, 4), np.int32)}
    )
    batch = {**images, "label": of(lead, np.int32), "id": of(lead, np.uint32), "view": of(lead, np.int32)}
    return (
        state,
        batch,
        None if pool is None else {"images": of(pool.images.shape, np.uint8), "sizes": of(pool.sizes.shape, np.int32)},
    )


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
            "would help: config.data.cache=file or none, config.study.cache=file; fewer config.data.threads "
            f"or workers; a config.batch_size below {config.batch_size}; a smaller config.image_size; fewer "
            "steps."
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
    if config.data.cache == "device":
        advice.append("config.data.cache=auto (the dataset stays on the host)")
    return "What would help, the cheapest first: " + "; ".join(advice) + "."


def _amount(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
