"""What `config.features.cache=auto` decided for a run, in its run directory."""

import os

from etils import epath

from flax_augtl.config.features_config import AUTO, DEVICE, FILE, MEMORY, NONE
from flax_augtl.config.schema import Config
from flax_augtl.errors import UserError
from flax_augtl.features.plan import FeaturePlan
from flax_augtl.runtime.paths import is_remote
from flax_augtl.workdir import files

_CACHE = "cache"


def decision_in(workdir: epath.Path) -> str | None:
    """Return where the run in a directory keeps features; None if `auto` has not decided that yet.

    Raises:
      UserError: the file cannot be read.
    """
    path = workdir / files.FEATURES_DECISION
    if not path.exists():
        return None
    found = files.read_json(path)
    cache = found.get(_CACHE) if isinstance(found, dict) else None
    if cache not in (NONE, MEMORY, FILE, DEVICE):
        raise UserError(f"{path} cannot be used: {_CACHE} must be none, memory, file or device.")
    return cache


def write_decision(workdir: epath.Path, config: Config, plan: FeaturePlan) -> None:
    """Write what `auto` decided, which a resumed run follows."""
    if config.features.cache == AUTO:
        files.write_json(workdir / files.FEATURES_DECISION, {_CACHE: plan.cache, "note": plan.note})


def existing_folder(workdir: epath.Path) -> str | None:
    """Return the lowest folder of a local path that exists; None for a path in a bucket."""
    if is_remote(workdir):
        return None
    folder = os.fspath(workdir)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder
