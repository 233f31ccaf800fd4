"""Identifies a checkpoint before any of its weights are read."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.models import MODELS
from flax_augtl.models.registry import FAMILIES, family_of
from flax_augtl.pretrained import metadata
from flax_augtl.pretrained.entries import choose_entry
from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.formats.keras_file import is_foreign
from flax_augtl.pretrained.formats.lazy_tensor import Checkpoint, Storage, Tensor
from flax_augtl.pretrained.formats.open import open_checkpoint
from flax_augtl.pretrained.formats.sharded import part_files
from flax_augtl.pretrained.key_names import Names, to_torchvision, without_other_heads
from flax_augtl.pretrained.locate import Located, check_digest, digest, locate
from flax_augtl.pretrained.match import fitting, require_fit, variant_notes
from flax_augtl.pretrained.metadata import Description
from flax_augtl.pretrained.unsettled import Unsettled


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A checkpoint that fits a network.

    Attributes:
      name: of the network.
      file: the checkpoint on this machine.
      names: the library of its tensors' names; None for a run directory.
      format: of the file, in words.
      tensors: in torchvision's names.
      settings: fields of the module that the weights need, e.g. v1_stride.
      preprocessing: as the checkpoint or its origin describes it; None if neither does.
      class_names: from the checkpoint or its origin; may be empty.
      terms: origin, sha256, licence, …
      notes: sentences that the user must read, such as which of several networks in the file this is.
      unsettled: preprocessing that the checkpoint asks for and that is not supported; the user decides.
    """

    name: str
    file: Path
    names: Names | None
    format: str
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    preprocessing: Preprocessing | None
    class_names: tuple[str, ...]
    terms: Mapping[str, str]
    notes: tuple[str, ...] = ()
    unsettled: tuple[Unsettled, ...] = ()

    @property
    def layout(self) -> str:
        """The library of its tensors' names, and its file format, for the user."""
        return f"{self.names} names in {self.format}" if self.names else self.format


def inspect_checkpoint(
    name: str | None,
    weights: str | os.PathLike,
    *,
    classify: bool = True,
    sha256: str | None = None,
    entry: str | None = None,
) -> Inspection:
    """Find a checkpoint, check that it fits, and collect its description.

    Args:
      name: of the network; None takes the one that fits.
      weights: a file, a folder, an address, or a hub id.
      classify: keep the classification layer, if the checkpoint has one.
      sha256: the SHA-256 that the file must have.
      entry: which network of a file with several; see `entries.choose_entry`.

    Raises:
      CheckpointError: the checkpoint cannot be used.
    """
    located = locate(weights)
    digests = _digests(located, sha256, str(weights))
    checkpoint = open_checkpoint(located.file)
    where = str(weights)
    renaming = _Renaming(checkpoint, classify)
    chosen, notes = choose_entry(checkpoint.tensors, entry, lambda tensors: renaming.fits(name, tensors), where)
    names, tensors, settings, out = renaming.renamed(chosen.tensors, chosen.prefix)
    if out:
        notes += (
            f"{where}: {len(out)} tensors of another head than a classification layer are left out: "
            f"{', '.join(out[:3])}{', …' * (len(out) > 3)}.",
        )
    said = _described(checkpoint, where).over(located.description)
    settings |= {field: said.settings[field] for field in ("stem",) if field in said.settings}
    name = require_fit(name, tensors, where, **settings)
    notes += tuple(f"{where}: {note}" for note in variant_notes(name, tensors, **{**settings, **said.settings}))
    if checkpoint.storage is Storage.KERAS:
        said = metadata.keras(family_of(name).KERAS_SETTINGS).over(said)
    metadata.check_architecture(name, said.architecture, where)
    return Inspection(
        name,
        located.file,
        names,
        checkpoint.format,
        tensors,
        {**settings, **said.settings},
        said.preprocessing,
        said.class_names if classify else (),
        {**said.terms, **located.terms, **({"entry": chosen.name} if chosen.prefix else {}), **digests},
        notes,
        said.unsettled,
    )


class _Renaming:
    """Renames the tensors of a checkpoint to the published names of a network."""

    def __init__(self, checkpoint: Checkpoint, classify: bool):
        self._keras, self._classify = checkpoint.storage is Storage.KERAS, classify

    def renamed(self, tensors: Mapping[str, Tensor], prefix: str = ""):
        """Return the library of the names, the tensors in torchvision's names, settings, and the names left out."""
        if self._keras:
            names, out = Names.KERAS, tuple(name for name in tensors if is_foreign(name))
            out = () if len(out) == len(tensors) else out
            kept = {name: tensor for name, tensor in tensors.items() if name not in out}
        else:
            names, kept = to_torchvision(tensors)
            # MoCo trains a projection on its encoders, whatever its name.
            projection = any(part.startswith("encoder_") for part in prefix.split("."))
            kept, out = without_other_heads(kept, projection)
        if not self._classify:
            kept = _without_classifier(kept)
        small = names is Names.PYTORCH_CIFAR and "conv1.weight" in kept and kept["conv1.weight"].shape[2:] == (3, 3)
        return names, kept, {"stem": "cifar"} if small else {}, out

    def fits(self, name: str | None, tensors: Mapping[str, Tensor]) -> bool:
        """Tell whether the tensors fit a network, or any."""
        _, kept, settings, _ = self.renamed(tensors)
        return bool(set(fitting(kept, **settings)) & ({name} if name else set(MODELS)))


def _digests(located: Located, expected: str | None, where: str) -> dict[str, str]:
    """Return the SHA-256 of a checkpoint's file, or of each of its parts, for the terms."""
    parts = part_files(located.file)
    if not parts:
        found = digest(located.file)
        check_digest(found, expected, where)
        return {"sha256": found}
    if expected is not None:
        raise CheckpointError(f"{where} is in {len(parts)} files, which one SHA-256 cannot stand for.")
    return {f"sha256 of {part.name}": digest(part) for part in parts}


def _described(checkpoint: Checkpoint, where: str) -> Description:
    return Description() if checkpoint.storage is Storage.KERAS else metadata.from_metadata(checkpoint.metadata, where)


def _without_classifier(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # No family has another's name of that layer, so all of them can go before the network is known.
    layers = tuple(f"{family.PUBLISHED_CLASSIFIER}." for family in FAMILIES.values())
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(layers)}
