"""The kept activations of one study: which arrays are kept, where, and under which key."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from flax_augtl.features.activations import Activations, cut_names, open_activations
from flax_augtl.features.cache import cache_key, place_of
from flax_augtl.features.views import Rows
from flax_augtl.models.augmented import CLASSIFICATION
from flax_augtl.study.context import Context
from flax_augtl.study.grid import Group, Trial

CACHE = "cache"


@dataclasses.dataclass
class TrainingCache:
    """The activations of a study's training and validation images, which are opened more than once.

    Attributes:
      context: of the study.
      folder: of the study.
      rows: which images in which views.
      tests: number of test images, which have a cache of their own.
      room: bytes for both caches together.
      names: of the arrays that may be kept; None for all that trials read.
    """

    context: Context
    folder: Path
    rows: Rows
    tests: int
    room: float
    names: Sequence[str] | None = None

    @property
    def share(self) -> float:
        """This cache's share of the room, by its number of rows."""
        return len(self.rows) / (len(self.rows) + self.tests)

    def open(self) -> Activations:
        """Open the cache."""
        return open_cache(self.context, self.rows, "train", self.folder, self.room * self.share, self.names)


def needed(context: Context, groups: Sequence[Group] | None = None) -> list[str]:
    """Return the names of all arrays that the trials of some groups read; None for all groups of the study."""
    names = set()
    for group in context.grid.groups() if groups is None else groups:
        trial = Trial("select", *group, 1.0, context.grid.seeds[0])
        names |= set(jax.tree.leaves(cut_names(context.network(trial), context.shared(trial))))
    if context.source.groups[-1] in CLASSIFICATION:
        names.add(context.source.groups[-1])  # LEEP reads it.
    return sorted(names)


def open_cache(
    context: Context, rows: Rows, part: str, folder: Path, budget: float, names: Sequence[str] | None = None
) -> Activations:
    """Open the activations of some rows of a study.

    Args:
      context: of the study.
      rows: which images in which views.
      part: name of the subfolder of the caches: "train" or "test".
      folder: of the study.
      budget: bytes that may be kept.
      names: of the arrays that may be kept; None for all that trials read.

    Raises:
      CannotWrite: the files cannot be written.
    """
    study = context.study
    return open_activations(
        rows,
        context.source.model,
        context.source.variables,
        context.preprocessing,
        needed(context) if names is None else names,
        place=place_of(study.cache, folder, study.cache_gb),
        budget=budget,
        device_bytes=1e9 * study.device_gb,
        dtype=study.cache_dtype,
        key=cache_key(
            context.source.variables,
            context.described["network"],
            context.described["settings"],
            context.config.compute_dtype,
        ),
        folder=folder / CACHE / part,
    )
