"""The directory of a study: which files it has, and whether a start may continue the study in it."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax_augtl.config import added_fields, presets
from flax_augtl.config.convert import to_json
from flax_augtl.config.schema import Config
from flax_augtl.config.unused_fields import refuse_unused
from flax_augtl.errors import UserError
from flax_augtl.runtime.paths import absolute
from flax_augtl.study.budget import BUDGET
from flax_augtl.study.caches import CACHE
from flax_augtl.study.context import Context
from flax_augtl.study.results import BEST
from flax_augtl.study.trials.worker import CELLS, CLAIMS, PARTIAL
from flax_augtl.workdir import files

TIMING, DATA = "timing.json", "data.json"
_NAMES = (
    files.CONFIG,
    files.CHECKPOINTS,
    files.REPORT,
    files.STUDY,
    TIMING,
    DATA,
    BUDGET,
    CELLS,
    CLAIMS,
    CACHE,
    PARTIAL,
    BEST,
)
# Fields of `config.study` that may change between two starts: what is compared may grow, how it is compared may not.
_FREE = {
    "preset",
    "minutes",
    "heads",
    "depths",
    "learning_rates",
    "norms",
    "methods",
    "strengths",
    "scales",
    "seeds",
    "selection_seeds",
    "finals",
    "cache",
    "cache_gb",
    "device_gb",
    "together",
    "checkpoint_seconds",
    "lease_seconds",
}


def as_begun(config: Config, folder: Path) -> Config:
    """Return the configuration with which the study in `folder` continues; `config` itself if there is no study."""
    path = folder / files.CONFIG
    old = files.read_json(path) if path.exists() else None
    if not isinstance(old, Mapping) or not isinstance(old.get("study"), Mapping):
        return config
    config = added_fields.continued(config, old)
    return dataclasses.replace(config, study=presets.as_begun(config.study, old))


def check_folder(config: Config, workdir: os.PathLike | str) -> Path:
    """Check what can be checked before anything is loaded, and return the directory of the study.

    Raises:
      UserError: `workdir` is remote or holds something else than this study, or `config.study` is invalid.
    """
    if "://" in os.fspath(workdir):
        raise UserError(
            f"--workdir={workdir}: a study needs a folder on a local or shared disk, because it maps its "
            f"files into memory."
        )
    presets.resolved(config.study)
    folder = Path(absolute(workdir))
    path = folder / files.CONFIG
    files.check_links(folder, _NAMES)
    if (folder / files.CHECKPOINTS).exists():
        raise UserError(f"{folder} holds a run, not a study. Choose another --workdir.")
    if not path.exists():
        # A study of an earlier version may have such fields, so only a new study is refused.
        refuse_unused(config)
    else:
        old = files.read_json(path)
        if not isinstance(old, Mapping) or not isinstance(old.get("study"), Mapping):
            raise UserError(f"{path} is not the configuration of a study. Choose another --workdir.")
        if found := files.differences(
            _lasting(added_fields.filled(old)),
            _lasting(to_json(presets.resolved_config(as_begun(config, folder)))),
        ):
            raise UserError(f"{folder} holds another study:\n  " + "\n  ".join(found) + "\nChoose another --workdir.")
    return folder


def fingerprints(folder: Path, context: Context) -> dict[str, str]:
    """Return the fingerprints of the data by seed, including those of earlier starts.

    Raises:
      UserError: the data of a seed have changed, so finished trials would be compared with trials on other data.
    """
    path, now = folder / DATA, {str(seed): dataset.fingerprint for seed, dataset in context.datasets.items()}
    before = files.read_json(path) if path.exists() else {}
    if not isinstance(before, Mapping) or any(before.get(seed, found) != found for seed, found in now.items()):
        raise UserError(
            f"The data have changed since the study in {folder} was started: images, labels or splits are "
            f"not those of {DATA} there. Restore them, or choose another --workdir."
        )
    return {**before, **now}


def write_start(folder: Path, config: Config, data: Mapping[str, str]) -> None:
    """Write the configuration and the fingerprints of the data.

    Args:
      folder: of the study.
      config: with every field of `config.study` resolved.
      data: the fingerprints by seed.

    Raises:
      CannotWrite: a file cannot be written.
    """
    files.write_json(folder / DATA, data)
    values, path = to_json(config), folder / files.CONFIG
    if path.exists():
        values = added_fields.still_lacking(values, files.read_json(path))
    files.write_json(path, values)


def _lasting(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that must not change between two starts of a study."""
    lasting = {name: value for name, value in values.items() if name != "report"}  # That is the report of a run.
    return {**lasting, "study": {name: value for name, value in values["study"].items() if name not in _FREE}}
