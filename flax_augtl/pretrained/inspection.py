"""What a checkpoint is, before any of its weights are read."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax_augtl.models import MODELS
from flax_augtl.pretrained import description
from flax_augtl.pretrained.checkpoint_file import open_checkpoint
from flax_augtl.pretrained.description import Description
from flax_augtl.pretrained.detect import require_fit
from flax_augtl.pretrained.located import check_digest, digest, locate
from flax_augtl.pretrained.naming import to_torchvision
from flax_augtl.pretrained.preprocessing import Preprocessing
from flax_augtl.pretrained.tensors import Tensor
from flax_augtl.pretrained.unsettled import Unsettled


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A checkpoint that fits a network.

    Attributes:
        name: of the network.
        file: the checkpoint on this machine.
        layout: whose tensor names it has, and in which file format, for the user.
        tensors: in torchvision's names.
        settings: fields of the module that the weights need, e.g. v1_stride.
        preprocessing: where the checkpoint or its origin says; else None.
        class_names: those that came with it; may be empty.
        terms: origin, sha256, licence, …
        unsettled: what the checkpoint asks of images besides `preprocessing`, which is for the user to decide.
    """

    name: str
    file: Path
    layout: str
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    preprocessing: Preprocessing | None
    class_names: tuple[str, ...]
    terms: Mapping[str, str]
    unsettled: tuple[Unsettled, ...] = ()


def inspect_checkpoint(
    name: str | None, weights: str | os.PathLike, *, classify: bool = True, sha256: str | None = None
) -> Inspection:
    """Find a checkpoint, check that it fits, and gather what is known of it.

    Args:
        name: of the network; None takes the one that fits.
        weights: a file, a folder, or a hub id.
        classify: the classification layer is wanted too.
        sha256: what the file's SHA-256 must be.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    located = locate(weights)
    found = digest(located.file)
    check_digest(found, sha256, str(weights))
    checkpoint = open_checkpoint(located.file)
    where = str(weights)
    if checkpoint.format == "Keras HDF5":
        names, tensors = "keras.applications", dict(checkpoint.tensors)
    else:
        names, tensors = to_torchvision(checkpoint.tensors)
    if not classify:
        tensors = _without_classifier(tensors)
    name = require_fit(name, tensors, where, classify=classify)
    said = _described(name, checkpoint, where).over(located.description)
    description.check_architecture(name, said.architecture, where)
    return Inspection(
        name,
        located.file,
        f"{names} names in {checkpoint.format}",
        tensors,
        said.settings,
        said.preprocessing,
        said.class_names if classify else (),
        {**said.terms, **located.terms, "sha256": found},
        said.unsettled,
    )


def _described(name, checkpoint, where) -> Description:
    if checkpoint.format == "Keras HDF5":
        return description.keras(checkpoint.metadata, MODELS[name].family == "resnet")
    return description.from_metadata(checkpoint.metadata, where)


def _without_classifier(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # A ResNet has no "classifier.6" and a VGG no "fc", so both can go without knowing which it is.
    layers = ("fc.", "classifier.6.")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(layers)}
