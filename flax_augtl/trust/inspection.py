"""Inspect a dataset: labels that are probably wrong, near-copies, and images that are unlike their class."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import Dataset, Examples
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.models.base import SourceNetwork
from flax_augtl.trust import linear_head
from flax_augtl.trust.copies import CopyPair, find_copies, groups_of
from flax_augtl.trust.label_errors import LabelErrors, label_errors
from flax_augtl.trust.source_features import source_features
from flax_augtl.trust.typicality import UNLIKE, normalised, typicality


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    """What was found in a dataset of n images, which are numbered through its splits.

    Attributes:
      class_names: the name of each class.
      parts: the examples of each split, by its name.
      labels: int64 [n].
      features: float32 [n, d] of length 1, of the source weights.
      probabilities: float32 [n, C], out of fold.
      errors: what the probabilities say about the labels.
      typicality: float32 [n], how like its class each image is.
      copies: the near-copies, the nearest first.
      splits: the split of every image, "" if it is in none.
      skipped: {path: reason} of the images that cannot be read.
      notes: sentences about how far the result can be trusted.
    """

    class_names: tuple[str, ...]
    parts: Mapping[str, Examples]
    labels: np.ndarray
    features: np.ndarray
    probabilities: np.ndarray
    errors: LabelErrors
    typicality: np.ndarray
    copies: Sequence[CopyPair]
    splits: Sequence[str]
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        """The ids of all images."""
        return [name for part in self.parts.values() for name in part.ids]

    def suspects(self) -> np.ndarray:
        """Return the positions of the images whose label is probably wrong, int64 [k], the most suspicious first."""
        return self.errors.ranking()[: np.count_nonzero(self.errors.suspected)]

    def unlike(self) -> np.ndarray:
        """Return the positions of the images that are unlike their class, int64 [k], the most unlike first."""
        order = np.argsort(self.typicality, kind="stable")
        return order[self.typicality[order] < UNLIKE]

    def pixels(self, position: int) -> np.ndarray:
        """Return an image, uint8 [H, W, 3]."""
        for part in self.parts.values():
            if position < len(part):
                return np.asarray(part.source[int(part.indices[position])])
            position -= len(part)
        raise IndexError(position)


def inspect_features(
    features: np.ndarray, labels: np.ndarray, classes: int, copies: Sequence[CopyPair] = ()
) -> tuple[np.ndarray, LabelErrors, np.ndarray]:
    """Return out-of-fold probabilities, label errors and typicality of some images.

    Near-copies are in one fold: two copies with the same wrong label must not confirm each other.

    Args:
      features: float [n, d].
      labels: int [n].
      classes: number of classes.
      copies: pairs of near-copies.
    """
    fold = linear_head.folds_of(labels, groups_of(copies, len(labels)), linear_head.FOLDS)
    probabilities = linear_head.out_of_fold(features, labels, classes, fold)
    return probabilities, label_errors(probabilities, labels), typicality(features, labels)


def inspect_dataset(
    dataset: Dataset,
    model: SourceNetwork,
    variables: Mapping[str, Any],
    preprocessing: Preprocessing,
    data: DataConfig,
    *,
    batch_size: int = 32,
    split_of: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Inspection:
    """Inspect all splits of a dataset with features of a source network.

    Args:
      dataset: the dataset.
      model: the source network; it must not have been trained on these labels.
      variables: its variables.
      preprocessing: the evaluation transform of its images.
      data: config.data.
      batch_size: images per batch.
      split_of: the split of each id, where it is not that of the dataset.
      notes: sentences for the report.
    """

    def features(part: Examples, name: str) -> np.ndarray:
        what = f"features of {name} images"
        return source_features(model, variables, preprocessing, part, data, batch_size=batch_size, what=what)

    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    parts = {name: part for name, part in splits.items() if part is not None}
    found = inspect_parts(dataset.class_names, parts, features, data)
    known = {} if split_of is None else {"splits": [split_of.get(name, "") for name in found.ids]}
    return dataclasses.replace(found, skipped=dataset.skipped, notes=tuple(notes), **known)


def inspect_parts(
    class_names: Sequence[str],
    parts: Mapping[str, Examples],
    features_of: Callable[[Examples, str], np.ndarray],
    data: DataConfig,
) -> Inspection:
    """Inspect some examples.

    Args:
      class_names: the name of each class.
      parts: examples of some splits, by the name of the split.
      features_of: (examples, name of their split) -> float [n, d], features of weights that were not trained on the labels.
      data: config.data.
    """
    copies = find_copies(list(parts.values()), data)
    labels = np.concatenate([part.labels for part in parts.values()]).astype(np.int64)
    features = np.concatenate([features_of(part, name) for name, part in parts.items()])
    probabilities, errors, typical = inspect_features(features, labels, len(class_names), copies)
    return Inspection(
        tuple(class_names),
        parts,
        labels,
        normalised(features),
        probabilities,
        errors,
        typical,
        copies,
        [name for name, part in parts.items() for _ in part.ids],
    )
