"""Checkpoints of trials in training, so that an interrupted study resumes in the middle of them."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization

from flax_augtl.errors import UserError
from flax_augtl.runtime import literal_glob
from flax_augtl.runtime.text import first_line
from flax_augtl.study.trials.trial_batch import TrialBatch
from flax_augtl.training import orbax_leak
from flax_augtl.workdir import checkpoint_index, checksums
from flax_augtl.workdir.files import CannotWrite

orbax_leak.resolve_once_a_directory()
literal_glob.take_folders_literally()


class Partial:
    """The checkpoint of one batch of trials."""

    def __init__(self, folder: Path, batch: TrialBatch):
        """Choose the folder of the checkpoint by the names of the trials.

        Args:
          folder: of all such checkpoints.
          batch: the trials.
        """
        names = "\n".join(trial.name for trial in batch.trials)
        self._folder = folder / hashlib.blake2b(names.encode(), digest_size=8).hexdigest()
        self._batch = batch

    def _manager(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._folder, options=ocp.CheckpointManagerOptions(max_to_keep=1), item_names=("states", "progress")
        )

    def save(self) -> None:
        """Write the current state of the trials, in place of the last one.

        Raises:
          CannotWrite: it cannot be written.
        """
        batch = self._batch
        states = jax.tree.map(np.asarray, serialization.to_state_dict(batch.states))
        progress = {
            "seconds": batch.seconds,
            "history": batch.history,
            "diverged": batch.diverged,
            "losses": batch.losses.tolist(),
        }
        try:
            with self._manager() as manager:
                manager.save(
                    batch.step,
                    args=ocp.args.Composite(states=ocp.args.StandardSave(states), progress=ocp.args.JsonSave(progress)),
                )
            checkpoint_index.check(
                epath.Path(self._folder / str(batch.step) / "states"), checkpoint_index.names_of(states)
            )
            checksums.write(self._folder / str(batch.step))
        except Exception as error:
            raise CannotWrite(
                f"The checkpoint of {batch.trials[0].name} in {self._folder} cannot be written: {first_line(error)}"
            ) from error

    def restore(self) -> bool:
        """Restore the trials; return False if there is no checkpoint, or if it is damaged, which removes it."""
        if not self._folder.exists():
            return False
        batch = self._batch
        like: Any = jax.tree.map(np.asarray, serialization.to_state_dict(batch.states))
        try:
            with self._manager() as manager:
                step = manager.latest_step()
                if step is None:
                    return False
                if damage := checksums.damage(self._folder / str(step)):
                    raise UserError(damage)
                found = manager.restore(
                    step,
                    args=ocp.args.Composite(states=ocp.args.StandardRestore(like), progress=ocp.args.JsonRestore()),
                )
            states, losses = jax.tree.map(np.asarray, found.states), np.array(found.progress["losses"], np.float64)
        except Exception as error:  # Orbax raises many types; a trial can always start again.
            print(
                f"The checkpoint of {batch.trials[0].name} cannot be used ({first_line(error)}); it starts from the "
                "beginning."
            )
            self.remove()
            return False
        restored: Any = serialization.from_state_dict(batch.states, states)
        batch.states = restored
        batch.step, batch.seconds, batch.losses = step, float(found.progress["seconds"]), losses
        batch.history, batch.diverged = found.progress["history"], found.progress["diverged"]
        return True

    def remove(self) -> None:
        """Delete the checkpoint, because the trials are done."""
        shutil.rmtree(self._folder, ignore_errors=True)
