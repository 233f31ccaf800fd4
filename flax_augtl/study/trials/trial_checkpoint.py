"""A pack in the middle of its training, on disk, so that a study that was interrupted goes on within its trials."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
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
    """The checkpoint of one pack."""

    def __init__(self, folder: Path, trial_batch: TrialBatch):
        """Name the checkpoint of a pack, by its trials.

        Args:
          folder: of all such checkpoints.
          pack: whose checkpoint it is.
        """
        names = "\n".join(trial.name for trial in trial_batch.trials)
        self._folder = folder / hashlib.blake2b(names.encode(), digest_size=8).hexdigest()
        self._trial_batch = trial_batch

    def _manager(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._folder, options=ocp.CheckpointManagerOptions(max_to_keep=1), item_names=("states", "progress")
        )

    def save(self) -> None:
        """Write the pack as it is, in place of what was written before.

        Raises:
          CannotWrite: it cannot be written.
        """
        trial_batch = self._trial_batch
        states = jax.tree.map(np.asarray, serialization.to_state_dict(trial_batch.states))
        progress = {
            "seconds": trial_batch.seconds,
            "history": trial_batch.history,
            "diverged": trial_batch.diverged,
            "losses": trial_batch.losses.tolist(),
        }
        try:
            with self._manager() as manager:
                manager.save(
                    trial_batch.step,
                    args=ocp.args.Composite(states=ocp.args.StandardSave(states), progress=ocp.args.JsonSave(progress)),
                )
            checkpoint_index.check(self._folder / str(trial_batch.step) / "states", checkpoint_index.names_of(states))
            checksums.write(self._folder / str(trial_batch.step))
        except Exception as error:
            raise CannotWrite(
                f"The checkpoint of {trial_batch.trials[0].name} in {self._folder} cannot be written: {first_line(error)}"
            ) from error

    def restore(self) -> bool:
        """Set the pack to what was written; return whether there was anything. What cannot be read is left behind."""
        if not self._folder.exists():
            return False
        trial_batch = self._trial_batch
        like: Any = jax.tree.map(np.asarray, serialization.to_state_dict(trial_batch.states))
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
        except Exception as error:  # Orbax raises what its many parts raise; a trial can always be begun anew.
            print(
                f"The checkpoint of {trial_batch.trials[0].name} cannot be used ({first_line(error)}); it starts from the "
                f"beginning."
            )
            self.remove()
            return False
        trial_batch.states = serialization.from_state_dict(trial_batch.states, states)
        trial_batch.step, trial_batch.seconds, trial_batch.losses = step, float(found.progress["seconds"]), losses
        trial_batch.history, trial_batch.diverged = found.progress["history"], found.progress["diverged"]
        return True

    def remove(self) -> None:
        """Delete the checkpoint: the trials are done."""
        shutil.rmtree(self._folder, ignore_errors=True)
