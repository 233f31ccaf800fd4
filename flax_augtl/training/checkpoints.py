"""Checkpoints of a run, with Orbax: the network, what is needed to go on, and how far it is.

A checkpoint counts once it has its manifest (`flax_augtl.workdir.checksums`), which is written after Orbax has
committed it. One without, because the program was killed in between, is not used: the one before it is.
"""

import contextlib
import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization, traverse_util

from flax_augtl.errors import UserError
from flax_augtl.runtime import distributed, library_noise, literal_glob
from flax_augtl.runtime.paths import is_remote
from flax_augtl.runtime.text import first_line
from flax_augtl.training import orbax_leak
from flax_augtl.training.progress import Progress, from_json
from flax_augtl.training.state import TrainState
from flax_augtl.workdir import checkpoint_index, checksums, network_checkpoint
from flax_augtl.workdir.files import CannotWrite

orbax_leak.resolve_once_a_directory()
literal_glob.take_folders_literally()


class CheckpointError(CannotWrite):
    """A checkpoint cannot be written or read; the message says which and why."""


class _BestAndLast(ocp.checkpoint_managers.PreservationPolicy):
    """Keep the newest checkpoints, and those that were the best when the newest and the one before it were written."""

    def __init__(self, last: int):
        # Until the newest has its manifest, the one before it is the only one that could be restored.
        self._last = max(last, 2)
        self._best: tuple[int | None, int | None] = (None, None)

    def best_is(self, step: int | None) -> None:
        """Take note of the best step at the next checkpoint. Should that be damaged, the one before needs its own best."""
        self._best = (self._best[1], step)

    def should_preserve(self, checkpoints, *, context):
        newest = {info.step for info in list(checkpoints)[-self._last :]}
        return [info.step in newest or info.step in self._best for info in checkpoints]


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its question after a preemption (a public method of it).

    It would ask JAX with the number of the checkpoint's step, also from its own threads, and so set back the number
    that `interruption.requested` asks with: the processes would agree on a step that one of them is already past, and
    wait for each other for ever.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints in a directory. Writing goes on in the background; `close` waits for it."""

    def __init__(
        self, directory: epath.PathLike, *, keep: int = 2, read_only: bool = False, frozen: Collection[str] = ()
    ):
        """Open a directory of checkpoints.

        Args:
          directory: absolute; it is created when the first checkpoint is written.
          keep: how many of the newest are kept, besides the best.
          read_only: never write or delete.
          frozen: layer groups that never change; they are written once, not with every checkpoint.
        """
        self._frozen = frozenset(frozen)
        self._frozen_is_written = False
        self._frozen_damage: str | None = None
        self._directory = epath.Path(directory)
        self._policy = _BestAndLast(keep)
        self._sealing: threading.Thread | None = None
        self._error: Exception | None = None
        with self._saying("The checkpoints in", directory), library_noise.reading():
            options = ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                preservation_policy=self._policy,
            )
            self._manager = _Manager(directory, options=options, item_names=("network", "training", "progress"))

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints that Orbax has committed, in order, sound or not."""
        return sorted(self._manager.all_steps())

    def damage(self, step: int) -> str:
        """Return what is wrong with a checkpoint, as a phrase; the empty string if it is as it was written."""
        if reason := checksums.damage(self._directory / str(step)):
            return reason
        if self._frozen_damage is None:
            self._frozen_damage = network_checkpoint.frozen_damage(self._directory)
        return self._frozen_damage

    def newest_sound(self, say: Callable[[str], Any]) -> int | None:
        """Return the newest step whose files are as they were written, None where there is no checkpoint yet.

        Args:
          say: is given a sentence about each newer one, which is not used.

        Raises:
          CheckpointError: there are checkpoints, but all of them are damaged.
        """
        # Of several processes the first looks: it writes the manifests, and what a host sees of a shared disk can be
        # old.
        step, sentences = distributed.first_decides(self._newest_sound)
        for sentence in sentences:
            say(sentence)
        return step

    def _newest_sound(self) -> tuple[int | None, list[str]]:
        """Return the newest step that is sound, None where there is no checkpoint, and sentences about newer ones."""
        found = {}
        for step in reversed(self.steps()):
            if not (reason := self.damage(step)):
                return step, [
                    f"The checkpoint of step {newer} is not used, because {why}. Step {step} is used instead."
                    for newer, why in found.items()
                ]
            found[step] = reason
        if len(found) > 1 and not any(checksums.exists(self._directory / str(step)) for step in found):
            # A program that is killed leaves at most one.
            steps = ", ".join(map(str, sorted(found)))
            raise CheckpointError(
                f"None of the checkpoints in {self._directory}, of steps {steps}, has its "
                f"{checksums.NAME}. Restore those files from a copy, or remove the directory to start "
                "again."
            )
        if any(checksums.exists(self._directory / str(step)) for step in found):
            raise CheckpointError(
                f"All checkpoints in {self._directory} are damaged:\n  "
                + "\n  ".join(f"step {step}: {reason}" for step, reason in found.items())
                + "\nRestore them from a copy, or remove the "
                "directory to start again."
            )
        return None, []

    def remove_after(self, step: int | None) -> None:
        """Remove the checkpoints of later steps, all for None: a run that goes on from `step` writes them again."""
        for later in self.steps():
            if step is None or later > step:
                with self._saying("The damaged checkpoint of step", later):
                    self._manager.delete(later)
        if step is None:
            network_checkpoint.remove_frozen(self._directory)
            self._frozen_is_written, self._frozen_damage = False, None

    def save(self, state: TrainState, progress: Progress) -> None:
        """Write a checkpoint in the background. One of the same step is left as it is.

        Raises:
          CheckpointError: it, or the one before, cannot be written.
        """
        self.wait()
        if progress.step in self._manager.all_steps():
            return
        self._policy.best_is(progress.best_step)
        # A copy: the next step is given the state's own buffers, which Orbax may still be reading.
        tree = jax.tree.map(lambda leaf: np.array(leaf, copy=True), serialization.to_state_dict(state))
        distributed.together(lambda: self._check_room(progress.step, tree))
        if jax.process_count() > 1:
            # Of these each process writes a part; arrays of the host would be written by the first one alone.
            tree = distributed.replicated(tree)
        network = {"params": tree.pop("params"), "batch_stats": tree.pop("batch_stats")}
        network, frozen = network_checkpoint.split(network, self._frozen)
        with self._saying("The checkpoint of step", progress.step):
            if frozen and not self._frozen_is_written:
                network_checkpoint.write_frozen(self._directory, frozen)
                self._frozen_is_written = True
            self._manager.save(
                progress.step,
                args=ocp.args.Composite(
                    network=ocp.args.StandardSave(network),
                    training=ocp.args.StandardSave(tree),
                    progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
                ),
            )
        if jax.process_index() == 0:
            names = {
                item: checkpoint_index.names_of(arrays) for item, arrays in (("network", network), ("training", tree))
            }
            self._sealing = threading.Thread(
                target=self._seal, args=(progress.step, names), name="manifest", daemon=True
            )
            self._sealing.start()

    def _check_room(self, step: int, tree: Any) -> None:
        """Raise CheckpointError if the disk has no room for a checkpoint.

        Orbax would find out too, but of several processes the one that does leaves the others waiting for ten minutes.
        """
        if is_remote(self._directory):
            return
        with self._saying("The checkpoint of step", step):
            disk = shutil.disk_usage(self._directory)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        if disk.total and disk.free < size:  # Some file systems do not say how large they are.
            raise CheckpointError(
                f"The checkpoint of step {step} cannot be written: it takes up to {size / 1e6:.1f} MB, "
                f"and the disk of {self._directory} has {disk.free / 1e6:.1f} MB left."
            )

    def _seal(self, step: int, names: Mapping[str, set[str]]) -> None:
        """Write the manifest of a checkpoint once Orbax has committed it and every array can be found in it.

        Args:
          step: of the checkpoint.
          names: of the arrays of each item.
        """
        try:
            while self._manager.is_saving_in_progress():
                time.sleep(0.01)
            # Where saving failed there is no such directory, in a bucket none that is committed, and `wait` raises
            # Orbax's own error.
            directory = self._directory / str(step)
            if directory.exists() and ocp.utils.is_checkpoint_finalized(directory):
                for item, expected in names.items():
                    checkpoint_index.check(directory / item, expected)
                checksums.write(directory)
        except Exception as error:
            self._error = error

    def restore(self, state: TrainState, step: int) -> tuple[TrainState, Progress]:
        """Return the state and the progress at a step.

        Args:
          state: gives the expected names, shapes and dtypes.
          step: one of `steps()`.

        Raises:
          CheckpointError: the checkpoint does not fit `state`.
        """
        tree = serialization.to_state_dict(state)
        network = {"params": tree.pop("params"), "batch_stats": tree.pop("batch_stats")}
        with self._saying("The checkpoint of step", step, "read"):
            _check_shapes(network_checkpoint.shapes(self._directory, step), network)
            with library_noise.reading(), ocp.StandardCheckpointer() as checkpointer:
                written = checkpointer.metadata(self._directory / str(step) / "training").item_metadata.tree
            _check_shapes(_shapes(written), tree)
            restored = self._manager.restore(
                step, args=ocp.args.Composite(training=ocp.args.StandardRestore(tree), progress=ocp.args.JsonRestore())
            )
            progress = from_json(restored.progress, "its progress")
            network = network_checkpoint.read(self._directory, step)
        tree = {**network, **jax.tree.map(np.asarray, restored.training)}
        self._policy.best_is(progress.best_step)
        return serialization.from_state_dict(state, tree), progress

    def restore_variables(self, step: int, like: Any) -> dict[str, Any]:
        """Return the variables of the network, {"params", "batch_stats"}, at a step, without the optimizer's state.

        Args:
          step: one of `steps()`.
          like: variables with the expected names, shapes and dtypes.

        Raises:
          CheckpointError: the checkpoint is not there, is damaged, or does not fit `like`.
        """
        if reason := self.damage(step):
            raise CheckpointError(
                f"The checkpoint of step {step} in {self._directory} cannot be used: {reason}. "
                f"Checkpoints: {', '.join(map(str, self.steps()))}."
            )
        with self._saying("The checkpoint of step", step, "read"):
            _check_shapes(network_checkpoint.shapes(self._directory, step), like)
            return network_checkpoint.read(self._directory, step)

    def progress(self, step: int) -> Progress:
        """Return the progress at a step.

        Raises:
          CheckpointError: it cannot be read.
        """
        with self._saying("The checkpoint of step", step, "read"):
            return from_json(
                self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())).progress,
                "its progress",
            )

    def wait(self) -> None:
        """Wait until what was saved is on disk.

        Raises:
          CheckpointError: it could not be written.
        """
        with self._saying("The last checkpoint in", self._directory):
            self._manager.wait_until_finished()
            if self._sealing is not None:
                self._sealing.join()
                self._sealing = None
            if self._error is not None:
                error, self._error = self._error, None
                raise error

    def close(self) -> None:
        """Wait for writing and release the directory."""
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _saying(self, what: str, which: Any, done: str = "written") -> Iterator[None]:
        """Turn whatever Orbax raises into a sentence: it raises a dozen kinds of error, by storage and by depth."""
        try:
            yield
        except Exception as error:
            raise CheckpointError(f"{what} {which} cannot be {done}: {first_line(error)}") from error


def _shapes(tree: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {
        path: tuple(leaf.shape) for path, leaf in traverse_util.flatten_dict(tree).items() if hasattr(leaf, "shape")
    }


def _check_shapes(written: Mapping[tuple[str, ...], tuple[int, ...]], like: Any) -> None:
    """Raise ValueError unless the arrays of a checkpoint, by path, have the shapes of those in `like`."""
    asked = _shapes(like)
    for path in sorted({*written, *asked}):
        if written.get(path) != asked.get(path):
            raise UserError(
                f"{'/'.join(path)} is {list(written[path]) if path in written else 'not there'}, where the "
                "run's config.json, class_names.json and source.json ask for "
                f"{list(asked[path]) if path in asked else 'no such array'}."
            )


@contextlib.contextmanager
def open_checkpoints(directory: epath.PathLike, **settings: Any):
    """Open checkpoints for a with statement; leaving it waits for writing."""
    checkpoints = Checkpoints(directory, **settings)
    try:
        yield checkpoints
    except BaseException:
        # What went wrong first is what its reader needs to know; that the last checkpoint failed too is one of its
        # effects.
        with contextlib.suppress(Exception):
            checkpoints.close()
        raise
    checkpoints.close()
