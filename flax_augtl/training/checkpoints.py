"""Checkpoints of a run, written by Orbax: the network, the rest of the training state, and the progress.

A checkpoint is complete once it has its file of checksums (`flax_augtl.workdir.checksums`), which is written after
Orbax has committed the checkpoint. If the program is killed in between, the checkpoint before is used.
"""

import contextlib
import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization

from flax_augtl.errors import UserError
from flax_augtl.runtime import distributed, library_noise, literal_glob
from flax_augtl.runtime.paths import is_remote
from flax_augtl.runtime.text import first_line
from flax_augtl.training import orbax_leak
from flax_augtl.training.orbax_manager import BestAndLast, Manager
from flax_augtl.training.progress import Progress, from_json
from flax_augtl.training.state import TrainState
from flax_augtl.workdir import checkpoint_index, checksums, network_checkpoint
from flax_augtl.workdir.files import CannotWrite

orbax_leak.resolve_once_a_directory()
literal_glob.take_folders_literally()


class CheckpointError(CannotWrite):
    """A checkpoint cannot be written or read; the message says which and why."""


class Checkpoints:
    """The checkpoints in a directory. They are written in the background; `close` waits for that."""

    def __init__(
        self, directory: epath.PathLike, *, keep: int = 2, read_only: bool = False, frozen: Collection[str] = ()
    ):
        """Open a directory of checkpoints.

        Args:
          directory: an absolute path; the first checkpoint creates it.
          keep: number of newest checkpoints to keep, besides the best one.
          read_only: never write or delete.
          frozen: the frozen layer groups; they are written once, not with every checkpoint.
        """
        self._frozen = frozenset(frozen)
        self._frozen_is_written = False
        self._frozen_damage: str | None = None
        self._directory = epath.Path(directory)
        self._policy = BestAndLast(keep)
        self._sealing: threading.Thread | None = None
        self._error: Exception | None = None
        with self._saying("The checkpoints in", directory), library_noise.reading():
            options = ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                preservation_policy=self._policy,
            )
            self._manager = Manager(directory, options=options, item_names=("network", "training", "progress"))

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints that Orbax has committed, in order, damaged ones included."""
        return sorted(self._manager.all_steps())

    def damage(self, step: int) -> str:
        """Return how a checkpoint is damaged, as a phrase; the empty string if it is not."""
        if reason := checksums.damage(self._directory / str(step)):
            return reason
        if self._frozen_damage is None:
            self._frozen_damage = network_checkpoint.frozen_damage(self._directory)
        return self._frozen_damage

    def newest_sound(self, say: Callable[[str], Any]) -> int | None:
        """Return the newest step that is not damaged; None if there is no checkpoint yet.

        Args:
          say: called with a sentence about each newer, damaged checkpoint.

        Raises:
          CheckpointError: there are checkpoints, but all of them are damaged.
        """
        # The first process writes the checksums, and other hosts may see an old state of a shared disk.
        step, sentences = distributed.first_decides(self._newest_sound)
        for sentence in sentences:
            say(sentence)
        return step

    def _newest_sound(self) -> tuple[int | None, list[str]]:
        """Return the newest step that is not damaged, or None, and sentences about the newer ones."""
        found: dict[int, str] = {}
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
        """Remove the checkpoints after `step`, or all for None; the resumed run writes them again."""
        for later in self.steps():
            if step is None or later > step:
                with self._saying("The damaged checkpoint of step", later):
                    self._manager.delete(later)
        if step is None:
            network_checkpoint.remove_frozen(self._directory)
            self._frozen_is_written, self._frozen_damage = False, None

    def save(self, state: TrainState, progress: Progress) -> None:
        """Write a checkpoint in the background, unless the step has one.

        Raises:
          CheckpointError: this checkpoint or the one before cannot be written.
        """
        self.wait()
        if progress.step in self._manager.all_steps():
            return
        self._policy.best_is(progress.best_step)
        tree: Any = serialization.to_state_dict(state)
        network = {"params": tree.pop("params"), "batch_stats": tree.pop("batch_stats")}
        network, frozen = network_checkpoint.split(network, self._frozen)
        # Copy, because the next step reuses the state's buffers while Orbax may still be reading.
        parts = (tree, network, {} if self._frozen_is_written else frozen)
        parts = jax.tree.map(lambda leaf: np.array(leaf, copy=True), parts)
        distributed.together(lambda: self._check_room(progress.step, parts))
        if jax.process_count() > 1:
            # Each process then writes a part; the first one alone would write host arrays.
            parts = distributed.replicated(parts)
        tree, network, frozen = parts
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
                target=self._seal, args=(progress.step, names), name="checksums", daemon=True
            )
            self._sealing.start()

    def _check_room(self, step: int, parts: Any) -> None:
        """Raise CheckpointError if the disk has no room for a checkpoint.

        Orbax would raise as well, but in one process only; the others would then wait for ten minutes.
        """
        if is_remote(self._directory):
            return
        with self._saying("The checkpoint of step", step):
            disk = shutil.disk_usage(self._directory)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(parts))
        if disk.total and disk.free < size:  # Some file systems do not say how large they are.
            raise CheckpointError(
                f"The checkpoint of step {step} cannot be written: it takes up to {size / 1e6:.1f} MB, "
                f"and the disk of {self._directory} has {disk.free / 1e6:.1f} MB left."
            )

    def _seal(self, step: int, names: Mapping[str, set[str]]) -> None:
        """Write the checksums of a checkpoint once Orbax has committed it; check that its index lists every array.

        Args:
          step: step of the checkpoint.
          names: names of the arrays of each item.
        """
        try:
            while self._manager.is_saving_in_progress():
                time.sleep(0.01)
            # If saving failed, no committed directory exists, and `wait` raises Orbax's error.
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
          state: has the expected names, shapes and dtypes.
          step: one of `steps()`.

        Raises:
          CheckpointError: the checkpoint does not fit `state`.
        """
        tree: Any = serialization.to_state_dict(state)
        network = {"params": tree.pop("params"), "batch_stats": tree.pop("batch_stats")}
        with self._saying("The checkpoint of step", step, "read"):
            _check_shapes(network_checkpoint.shapes(self._directory, step), network)
            with library_noise.reading(), ocp.StandardCheckpointer() as checkpointer:
                written = checkpointer.metadata(self._directory / str(step) / "training").item_metadata.tree
            _check_shapes(network_checkpoint.shapes_of(written), tree)
            restored: Any = cast(
                Any,  # Orbax returns a mapping with attributes.
                self._manager.restore(
                    step,
                    args=ocp.args.Composite(training=ocp.args.StandardRestore(tree), progress=ocp.args.JsonRestore()),
                ),
            )
            progress = from_json(restored.progress, "its progress")
            network = network_checkpoint.read(self._directory, step)
        tree = {**network, **jax.tree.map(np.asarray, restored.training)}
        self._policy.best_is(progress.best_step)
        return cast(TrainState, serialization.from_state_dict(state, tree)), progress

    def restore_variables(self, step: int, like: Any) -> dict[str, Any]:
        """Return the network's variables, {"params", "batch_stats"}, at a step.

        Args:
          step: one of `steps()`.
          like: variables with the expected names, shapes and dtypes.

        Raises:
          CheckpointError: the checkpoint is missing, is damaged, or does not fit `like`.
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
            restored = self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
            return from_json(cast(Any, restored).progress, "its progress")

    def wait(self) -> None:
        """Wait until all checkpoints are on disk.

        Raises:
          CheckpointError: a checkpoint could not be written.
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
        """Wait until all checkpoints are on disk, and close the directory."""
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _saying(self, what: str, which: Any, done: str = "written") -> Iterator[None]:
        """Raise CheckpointError for whatever Orbax raises: it has a dozen error types, depending on the storage."""
        try:
            yield
        except Exception as error:
            raise CheckpointError(f"{what} {which} cannot be {done}: {first_line(error)}") from error


def _check_shapes(written: Mapping[tuple[str, ...], tuple[int, ...]], like: Any) -> None:
    """Raise UserError unless the arrays of a checkpoint, by path, have the shapes of those in `like`."""
    asked = network_checkpoint.shapes_of(like)
    for path in sorted({*written, *asked}):
        if written.get(path) != asked.get(path):
            raise UserError(
                f"{'/'.join(path)} is {list(written[path]) if path in written else 'not there'}, where the "
                "run's config.json, class_names.json and source.json ask for "
                f"{list(asked[path]) if path in asked else 'no such array'}."
            )


@contextlib.contextmanager
def open_checkpoints(directory: epath.PathLike, **settings: Any) -> Iterator[Checkpoints]:
    """Open checkpoints for a with statement, which ends once they are on disk."""
    checkpoints = Checkpoints(directory, **settings)
    try:
        yield checkpoints
    except BaseException:
        # The user needs the first error; an error of the last checkpoint may be its consequence.
        with contextlib.suppress(Exception):
            checkpoints.close()
        raise
    checkpoints.close()
