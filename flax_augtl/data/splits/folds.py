"""Divide examples into folds for cross-validation; each fold is the test split once."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import keyed_random
from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.splits import groups
from flax_augtl.data.types import Examples


def over_all(data: DataConfig) -> bool:
    """Tell whether config.data asks for all folds: `folds` is set, and `fold` is not."""
    return bool(data.folds) and data.fold is None


def check(data: DataConfig) -> None:
    """Raise DataError if config.data.folds or config.data.fold is invalid."""
    folds, fold = data.folds, data.fold
    if not folds:
        if fold is not None:
            raise DataError(
                f"config.data.fold={fold} has no effect without config.data.folds: set that as well, such as 5."
            )
        return
    if not _is_whole(folds) or folds < 2:
        raise DataError(f"config.data.folds={folds} must be a whole number of at least 2, or 0 for none.")
    if fold is None:
        raise DataError(
            f"config.data.folds={folds} needs config.data.fold, from 0 to {folds - 1}: the fold that is the "
            "test split. Without it, main.py trains all folds one after the other."
        )
    if not _is_whole(fold) or not 0 <= fold < folds:
        raise DataError(
            f"config.data.fold={fold} must be a whole number from 0 to {folds - 1}, because config.data.folds={folds}."
        )


def hold_out(
    examples: Examples, folds: int, fold: int, seed: int, class_names: tuple[str, ...], group: Mapping[str, str] | None
) -> tuple[Examples, Examples]:
    """Take one fold out of some examples.

    Without groups, each class is spread evenly: the folds differ by at most one example, in each class and in total.

    Args:
      examples: what to divide.
      folds: number of folds.
      fold: which one to take, from 0.
      seed: config.data.split_seed, the seed of all folds.
      class_names: for messages.
      group: the group of each id; None if there are no groups.

    Returns:
      (the rest, the fold), each in the order of `examples`.

    Raises:
      DataError: there are fewer examples or groups than folds, or all examples of a class are in one fold.
    """
    if len(examples) < folds:
        raise DataError(f"config.data.folds={folds} needs at least as many images, and there are {len(examples)}.")
    if group is None:
        of = _stratified(examples.labels, folds, seed)
    else:
        of = groups.fold_of(examples.labels, examples.ids, group, folds, seed)
    _check_classes(examples.labels, of, class_names, group is not None)
    return examples.take(np.flatnonzero(of != fold)), examples.take(np.flatnonzero(of == fold))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _stratified(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    of, dealt = np.empty(len(labels), np.int64), 0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        of[members[keyed_random.permutation(len(members), seed, "folds", int(label))]] = (
            dealt + np.arange(len(members))
        ) % folds
        dealt += len(members)
    return of


def _check_classes(labels: np.ndarray, of: np.ndarray, class_names: tuple[str, ...], grouped: bool) -> None:
    alone = [class_names[label] for label in np.unique(labels) if len(np.unique(of[labels == label])) < 2]
    if alone:
        where = "one group" if grouped else "one image"
        raise DataError(
            f"All images of these classes are in one fold, so there would be nothing to train on there: "
            f"{listed(alone)}. They have {where} only, or too few: add images of them, or remove them."
        )
