"""The network and the preprocessing of a run directory."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from flax_augtl.data.images.preprocessing import LARGEST_SIDE, Preprocessing
from flax_augtl.errors import UserError
from flax_augtl.models import create_model
from flax_augtl.workdir import description, files


@dataclasses.dataclass(frozen=True)
class RunDescription:
    """The files beside the checkpoints of a run.

    Attributes:
      config: the contents of config.json.
      class_names: of the target classes.
      preprocessing: from images to the network's inputs.
      source: the contents of source.json, which describes the source network.
    """

    config: Mapping[str, Any]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    source: Mapping[str, Any]


def read_run_description(workdir: os.PathLike | str) -> RunDescription:
    """Read and check everything but a checkpoint that loading the network of a run directory needs.

    Raises:
      UserError: it is no run directory, or a value in it is invalid; the message says which.
    """
    found = description.read_description(workdir)
    return RunDescription(found.config, tuple(found.class_names), read_preprocessing(workdir), read_source(workdir))


def read_preprocessing(workdir: os.PathLike | str) -> Preprocessing:
    """Read and check preprocessing.json of a run."""
    fields, path = description.read_preprocessing(workdir), epath.Path(workdir) / files.PREPROCESSING
    if fields.get("image_size", 0) > LARGEST_SIDE:
        raise UserError(f"{path}: image_size={fields['image_size']} is above {LARGEST_SIDE} pixels.")
    try:
        return Preprocessing.from_json(fields)
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from error


def read_source(workdir: os.PathLike | str) -> Mapping[str, Any]:
    """Read source.json of a run, and check that its network exists."""
    source = description.read_source(workdir)
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in source["settings"].items()
    }
    try:
        create_model(source["network"], num_classes=source["num_classes"], **settings)
    except ValueError as error:
        raise UserError(f"{epath.Path(workdir) / files.SOURCE} cannot be used: {error}") from error
    return source
