"""The kept activations of one study: what is kept of its pictures, where, and under which key."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from flax_augtl.features.activations import Activations, cut_names, open_activations
from flax_augtl.features.cache import cache_key, kind_of
from flax_augtl.features.views import Rows
from flax_augtl.models.augmented import CLASSIFICATION
from flax_augtl.study.context import Material
from flax_augtl.study.grid import Cell

CACHE = "cache"


@dataclasses.dataclass
class TrainingCache:
    """The activations of a study's training and validation images, which are opened more than once.

    Attributes:
      material, folder: of the study.
      rows: what the images are.
      tests: number of test images, whose cache is another one.
      room: bytes for both caches.
      names: of the arrays that may be kept; None for all that cells read.
    """

    material: Material
    folder: Path
    rows: Rows
    tests: int
    room: float
    names: Sequence[str] | None = None

    @property
    def share(self) -> float:
        """Share of the room that this cache has, by its number of rows."""
        return len(self.rows) / (len(self.rows) + self.tests)

    def open(self) -> Activations:
        """Open the cache."""
        return open_cache(self.material, self.rows, "train", self.folder, self.room * self.share, self.names)


def needed(material: Material, groups: Sequence[tuple[str, str, str]] | None = None) -> list[str]:
    """Return the names of all arrays that the cells of a study, or of some (head, depth, classifier rate) of it, read."""
    names = set()
    for group in material.grid.groups() if groups is None else groups:
        cell = Cell("select", *group, 1.0, material.grid.seeds[0])
        names |= set(jax.tree.leaves(cut_names(material.network(cell), material.shared(cell))))
    if material.source.groups[-1] in CLASSIFICATION:
        names.add(material.source.groups[-1])  # LEEP reads it.
    return sorted(names)


def open_cache(
    material: Material, rows: Rows, part: str, folder: Path, budget: float, names: Sequence[str] | None = None
) -> Activations:
    """Open the activations of some rows of a study.

    Args:
      material: of the study.
      rows: which pictures in which views.
      part: name of the folder below that of the caches.
      folder: of the study.
      budget: bytes that may be kept.
      names: of the arrays that may be kept; None for all that cells read.

    Raises:
      ValueError: a setting is unknown, or the files cannot be written.
    """
    study = material.study
    return open_activations(
        rows,
        material.source.model,
        material.source.variables,
        material.preprocessing,
        needed(material) if names is None else names,
        kind=kind_of(study.cache, folder, study.cache_gb),
        budget=budget,
        device_bytes=1e9 * study.device_gb,
        dtype=study.cache_dtype,
        key=cache_key(
            material.source.variables,
            material.described["network"],
            material.described["settings"],
            material.config.compute_dtype,
        ),
        folder=folder / CACHE / part,
    )
