"""Checkpoints of a run, with Orbax: the network, what is needed to go on, and how far it is."""

import contextlib
import dataclasses
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization

from flax_augtl import distributed
from flax_augtl.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
      step: steps done.
      position: global batches of data seen; the order of the data is a function of (seed, position).
      best_step: step of the best evaluation so far, None before the first.
      best_value: its value of the metric that chooses.
      best_loss: its loss, which decides between equal values.
      evaluations_since_best: for early stopping.
      seconds: spent in training and evaluation so far, over all starts of the run.
    """

    step: int = 0
    position: int = 0
    best_step: int | None = None
    best_value: float | None = None
    best_loss: float | None = None
    evaluations_since_best: int = 0
    seconds: float = 0.0


class _BestAndLast(ocp.checkpoint_managers.PreservationPolicy):
    """Keep the newest checkpoints and the one that was the best when the newest was written."""

    def __init__(self, last: int):
        self._last = last
        self.best_step: int | None = None

    def should_preserve(self, checkpoints, *, context):
        newest = {info.step for info in list(checkpoints)[-self._last:]}
        return [info.step in newest or info.step == self.best_step for info in checkpoints]


class Checkpoints:
    """The checkpoints in a directory. Writing goes on in the background; `close` waits for it."""

    def __init__(self, directory: epath.PathLike, *, keep: int = 2, read_only: bool = False):
        """Open a directory of checkpoints.

        Args:
          directory: absolute; it is created when the first checkpoint is written.
          keep: how many of the newest are kept, besides the best.
          read_only: never write or delete.
        """
        self._policy = _BestAndLast(keep)
        options = ocp.CheckpointManagerOptions(create=not read_only, read_only=read_only,
                                               cleanup_tmp_directories=not read_only,
                                               preservation_policy=self._policy)
        self._manager = ocp.CheckpointManager(directory, options=options,
                                              item_names=("network", "training", "progress"))

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, progress: Progress) -> None:
        """Write a checkpoint in the background. One of the same step is left as it is."""
        if progress.step in self._manager.all_steps():
            return
        self._policy.best_step = progress.best_step
        # A copy: the next step is given the state's own buffers, which Orbax may still be reading.
        tree = jax.tree.map(lambda leaf: np.array(leaf, copy=True), serialization.to_state_dict(state))
        if jax.process_count() > 1:
            # Of these each process writes a part; arrays of the host would be written by the first one alone.
            tree = distributed.replicated(tree)
        network = {"params": tree.pop("params"), "batch_stats": tree.pop("batch_stats")}
        self._manager.save(progress.step, args=ocp.args.Composite(
            network=ocp.args.StandardSave(network), training=ocp.args.StandardSave(tree),
            progress=ocp.args.JsonSave(dataclasses.asdict(progress))))

    def restore(self, state: TrainState, step: int) -> tuple[TrainState, Progress]:
        """Return the state and the progress at a step.

        Args:
          state: gives the expected names, shapes and dtypes.
          step: one of `steps()`.
        """
        tree = serialization.to_state_dict(state)
        network = {"params": tree.pop("params"), "batch_stats": tree.pop("batch_stats")}
        restored = self._manager.restore(step, args=ocp.args.Composite(
            network=ocp.args.StandardRestore(network), training=ocp.args.StandardRestore(tree),
            progress=ocp.args.JsonRestore()))
        tree = {**restored.network, **restored.training}
        tree = jax.tree.map(np.asarray, tree)
        progress = Progress(**restored.progress)
        self._policy.best_step = progress.best_step
        return serialization.from_state_dict(state, tree), progress

    def restore_variables(self, step: int, like: Any) -> dict[str, Any]:
        """Return the variables of the network, {"params", "batch_stats"}, at a step, without the optimizer's state.

        Args:
          step: one of `steps()`.
          like: variables with the expected names, shapes and dtypes.
        """
        restored = self._manager.restore(step, args=ocp.args.Composite(network=ocp.args.StandardRestore(like)))
        return jax.tree.map(np.asarray, restored.network)

    def progress(self, step: int) -> Progress:
        """Return the progress at a step."""
        return Progress(**self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())).progress)

    def wait(self) -> None:
        """Wait until what was saved is on disk; raises what went wrong there."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for writing and release the directory."""
        self._manager.close()


@contextlib.contextmanager
def open_checkpoints(directory: epath.PathLike, **settings: Any):
    """Open checkpoints for a with statement; leaving it waits for writing."""
    checkpoints = Checkpoints(directory, **settings)
    try:
        yield checkpoints
    finally:
        checkpoints.close()
