"""The description of a run in its directory: plain JSON values, with the type of each one checked."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from flax_augtl.config import added_fields, value_types
from flax_augtl.config.convert import as_written
from flax_augtl.config.schema import KINDS
from flax_augtl.errors import UserError
from flax_augtl.runtime.paths import absolute
from flax_augtl.workdir import files

_SOURCE = {"network": "text", "num_classes": "whole number or null", "class_names": "list of texts"}
_PREPROCESSING = {
    "image_size": "whole number",
    "crop_fraction": "number",
    "interpolation": "text",
    "channel_order": "text",
    "value_range": "number",
    "mean": "list of numbers",
    "std": "list of numbers",
    "resize": "text",
    "crop_rounding": "text",
}
# In splits.json: the folder of the data when the run was trained.
PLACE = "data_root"


@dataclasses.dataclass(frozen=True)
class Description:
    """What loading a run needs besides its checkpoints.

    Attributes:
      config: the contents of config.json.
      class_names: the names of the target classes.
      preprocessing: the contents of preprocessing.json, which describes the evaluation transform.
      source: the contents of source.json, which describes the source network.
    """

    config: Mapping[str, Any]
    class_names: Sequence[str]
    preprocessing: Mapping[str, Any]
    source: Mapping[str, Any]


def write_description(workdir: epath.Path, description: Description, splits: Mapping[str, Any]) -> None:
    """Write what loading a run needs besides its checkpoints; config.json comes last, because it marks a run.

    Args:
      workdir: the run directory.
      description: the description of the run.
      splits: the contents of splits.json: `fingerprint`, the ids of each split, and the folder of the data (`PLACE`).
    """
    files.write_json(workdir / files.CLASS_NAMES, list(description.class_names))
    files.write_json(workdir / files.PREPROCESSING, description.preprocessing)
    files.write_json(workdir / files.SOURCE, description.source)
    path = workdir / files.SPLITS
    before = files.read_json(path).get(PLACE) if path.exists() else None
    files.write_json(path, {**splits, PLACE: splits.get(PLACE) or before})
    values, path = description.config, workdir / files.CONFIG
    if path.exists():
        values = added_fields.still_lacking(values, files.read_json(path))
    files.write_json(path, values)


def place_of(root: str | None) -> str | None:
    """Return the absolute path of a configuration's data; None if it names no existing folder."""
    return str(absolute(root)) if root and absolute(root).exists() else None


def read_description(workdir: os.PathLike | str) -> Description:
    """Read and check what loading a run needs besides a checkpoint.

    Raises:
      UserError: it is not a run directory, or a value in it has the wrong type; the message says which.
    """
    workdir = epath.Path(workdir)
    config = read_config(workdir)
    path = workdir / files.CLASS_NAMES
    class_names = files.read_json(path)
    if not class_names or not value_types.is_a(class_names, "list of texts"):
        raise UserError(f"{path} must be a list of names, one a class.")
    return Description(
        added_fields.filled(config), tuple(class_names), read_preprocessing(workdir), read_source(workdir)
    )


def read_config(workdir: os.PathLike | str) -> Mapping[str, Any]:
    """Read and check config.json of a run, without adding the fields that it lacks."""
    path = epath.Path(workdir) / files.CONFIG
    config = files.read_json(path)
    value_types.check(config, KINDS, value_types.NEEDED, str(path))
    return as_written(config)


def read_preprocessing(workdir: os.PathLike | str) -> Mapping[str, Any]:
    """Read preprocessing.json of a run, and check the types of its values."""
    path = epath.Path(workdir) / files.PREPROCESSING
    fields = files.read_json(path)
    value_types.check(fields, _PREPROCESSING, (), str(path))
    return fields


def read_source(workdir: os.PathLike | str) -> Mapping[str, Any]:
    """Read source.json of a run, and check the types of its values."""
    path = epath.Path(workdir) / files.SOURCE
    source = files.read_json(path)
    value_types.check(source, _SOURCE, tuple(_SOURCE), str(path))
    for name in ("settings", "terms"):
        if not isinstance(source.get(name), Mapping):
            raise UserError(f"{path} cannot be used: {name} must be an object in braces.")
    if unknown := sorted({"name", "num_classes", "dtype", "axis_name"} & set(source["settings"])):
        raise UserError(f"{path} cannot be used: settings must not contain {', '.join(unknown)}.")
    return source


def read_splits(path: epath.Path) -> Mapping[str, Any]:
    """Read splits.json: the ids of each split, and the fingerprint of all."""
    splits = files.read_json(path)
    value_types.check(
        splits,
        {"fingerprint": "text", "train": "list of texts", "val": "list of texts", "test": "list of texts"},
        ("fingerprint",),
        str(path),
    )
    return splits


def read_result(workdir: os.PathLike | str) -> Mapping[str, Any] | None:
    """Read and check result.json of a run; return None if there is none, because the run is not finished."""
    path = epath.Path(workdir) / files.RESULT
    if not path.exists():
        return None
    result = files.read_json(path)
    value_types.check(result, {"best_step": "whole number"}, ("best_step",), str(path))
    return result
