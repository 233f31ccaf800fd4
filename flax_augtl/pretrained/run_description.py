"""What a run directory says of its network, besides the weights, with the kind of every value checked."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from flax_augtl import added_fields, field_types, run_directory
from flax_augtl.models import create_model
from flax_augtl.pretrained.preprocessing import LARGEST_SIDE, Preprocessing

_SOURCE = {"network": "text", "num_classes": "whole number or null", "class_names": "list of texts"}
_PREPROCESSING = {"image_size": "whole number", "crop_fraction": "number", "interpolation": "text", "channel_order": "text",
                  "value_range": "number", "mean": "list of numbers", "std": "list of numbers",
                  "resize": "text"}


@dataclasses.dataclass(frozen=True)
class RunDescription:
    """What stands beside the checkpoints of a run.

    Attributes:
      config: the contents of config.json.
      class_names: one name a target class.
      preprocessing: from pictures to what the network reads.
      source: the contents of source.json, which describes the source network.
    """

    config: Mapping[str, Any]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    source: Mapping[str, Any]


def read_run_description(workdir: os.PathLike | str) -> RunDescription:
    """Read and check everything in a run directory that loading its network needs, besides a checkpoint.

    Raises:
      ValueError: it is no run directory, or something in it is not of the kind that it should be; the message says which.
    """
    workdir = epath.Path(workdir)
    config = run_directory.read_json(workdir / run_directory.CONFIG)
    field_types.check(config, field_types.KINDS, field_types.NEEDED, str(workdir / run_directory.CONFIG))
    path = workdir / run_directory.CLASS_NAMES
    class_names = run_directory.read_json(path)
    if not class_names or not field_types.is_a(class_names, "list of texts"):
        raise ValueError(f"{path} must be a list of names, one a class.")
    return RunDescription(added_fields.filled(config), tuple(class_names), read_preprocessing(workdir), read_source(workdir))


def read_preprocessing(workdir: os.PathLike | str) -> Preprocessing:
    """Read and check preprocessing.json of a run."""
    path = epath.Path(workdir) / run_directory.PREPROCESSING
    fields = run_directory.read_json(path)
    field_types.check(fields, _PREPROCESSING, (), str(path))
    if fields.get("image_size", 0) > LARGEST_SIDE:
        raise ValueError(f"{path}: image_size={fields['image_size']} is above {LARGEST_SIDE} pixels.")
    try:
        return Preprocessing.from_json(fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error


def read_source(workdir: os.PathLike | str) -> Mapping[str, Any]:
    """Read and check source.json of a run."""
    path = epath.Path(workdir) / run_directory.SOURCE
    source = run_directory.read_json(path)
    field_types.check(source, _SOURCE, tuple(_SOURCE), str(path))
    for name in ("settings", "terms"):
        if not isinstance(source.get(name), Mapping):
            raise ValueError(f"{path} cannot be used: {name} must be an object in braces.")
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in source["settings"].items()}
    if unknown := sorted({"name", "num_classes", "dtype", "axis_name"} & set(settings)):
        raise ValueError(f"{path} cannot be used: settings has {', '.join(unknown)}, which is not its to set.")
    try:
        create_model(source["network"], num_classes=source["num_classes"], **settings)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    return source


def read_result(workdir: os.PathLike | str) -> Mapping[str, Any] | None:
    """Read and check result.json of a run; None where it has none, because it is not finished."""
    path = epath.Path(workdir) / run_directory.RESULT
    if not path.exists():
        return None
    result = run_directory.read_json(path)
    field_types.check(result, {"best_step": "whole number"}, ("best_step",), str(path))
    return result
