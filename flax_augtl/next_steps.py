"""The commands that a user is likely to need after training."""

import os
import shlex

from flax_augtl.runtime.text import for_terminal
from flax_augtl.workdir import files


def next_steps(workdir: os.PathLike | str | None, *, runs: os.PathLike | str | None = None) -> str:
    """Return commands to copy.

    Args:
      workdir: directory of a run to evaluate and predict with; None if there is none.
      runs: a folder of runs to compare; None if there is none. One of the two must be given.
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
        logs = os.path.expanduser(os.fspath(runs))
    else:
        assert workdir is not None, "one of workdir and runs is given"
        logs = os.path.expanduser(os.path.join(workdir, files.TENSORBOARD))
    if runs is not None or os.path.isdir(logs) or "://" in logs:  # The best network of a study has no logs.
        lines.append(f"tensorboard --logdir={shlex.quote(logs)}")
    return for_terminal("\nNext:\n  " + "\n  ".join(lines))
