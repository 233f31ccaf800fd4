"""The commands that a user is likely to need after a training."""

import os
import shlex

from flax_augtl.runtime.text import for_terminal
from flax_augtl.workdir import files


def next_steps(workdir: os.PathLike | str | None, *, runs: os.PathLike | str | None = None) -> str:
    """Return commands to copy.

    Args:
      workdir: of a run to evaluate and predict with; None for none.
      runs: a folder of runs to compare; None for none.
    """
    lines = []
    if workdir is not None:
        folder = shlex.quote(os.fspath(workdir))
        lines += [
            f"python main.py --mode=evaluate --workdir={folder}",
            f"python main.py --mode=predict --workdir={folder} --images=FOLDER",
            f"python main.py --mode=export --workdir={folder}",
        ]
    if runs is not None:
        lines.append(f"python main.py --mode=compare --workdir={shlex.quote(os.fspath(runs))}")
    logs = os.path.expanduser(runs if runs is not None else os.path.join(workdir, files.TENSORBOARD))
    if runs is not None or os.path.isdir(logs) or "://" in logs:  # The best network of a study has none.
        lines.append(f"tensorboard --logdir={shlex.quote(logs)}")
    return for_terminal("\nNext:\n  " + "\n  ".join(lines))
