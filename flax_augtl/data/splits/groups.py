"""Keep groups of images, such as those of one patient, in one split.

The group of an image comes from a column of a list, or from a pattern on its path. scikit-learn can divide groups, too,
but its results may change between versions. Splits must be the same everywhere and forever.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from flax_augtl.data import keyed_random
from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.types import Examples

# Shares of classes are counted in whole units, so that sums are exact on every machine.
_UNIT = 2**20
# Number of random orders to try; the most balanced one is used. Very many groups need fewer, because they balance
# themselves.
_ORDERS, _WORK = 16, 20_000
# Imbalance that is good enough, about 0.2 ± 0.09 or 0.5 ± 0.16 of each class. If only the most balanced order counted,
# all seeds would get the same part when there are few groups.
_NEAR = 0.05


def groups_of(
    paths: Sequence[str], columns: Mapping[str, Mapping[str, str]], wanted: str | None
) -> dict[str, str] | None:
    """Return the group of every image, or None if none is wanted.

    Args:
      paths: of the images.
      columns: the other columns of a list, {name: {path: value}}.
      wanted: config.data.group: the name of a column, or a regular expression with one group that is searched in the
        path.

    Raises:
      DataError: `wanted` is neither, an image has no group, or all images are in one group.
    """
    if wanted is None:
        return None
    column = next((name for name in (wanted, wanted.lower()) if name in columns), None)
    if column is not None:
        found = {path: str(columns[column].get(path, "")).strip() for path in paths}
        what = f"The column {column}"
    else:
        pattern = _pattern(wanted, columns)
        matches = {path: pattern.search(path) for path in paths}
        found = {path: (match[1] or "") if match else "" for path, match in matches.items()}
        what = f"The pattern config.data.group={wanted!r}"
    without = [path for path, group in found.items() if not group]
    if without:
        raise DataError(
            f"{what} gives no group for {len(without)} of {len(found)} images: {listed(without, 3)}. "
            "Each image needs a group; an image that belongs to no other can have its own path as its group."
        )
    if len(set(found.values())) < 2:
        raise DataError(
            f"{what} gives all {len(found)} images the same group, {next(iter(found.values()), '')!r}. "
            "There must be at least two, because a group is never divided between splits."
        )
    return found


def refuse(wanted: str | None, name: str) -> None:
    """Raise DataError if config.data.group is set for data whose images have neither columns nor paths."""
    if wanted is not None:
        raise DataError(
            f"config.data.group={wanted!r} needs image files: it is a column of a list, or a pattern on the "
            f"path of a file. The images of {name} have neither. Leave it out."
        )


def note(groups: Mapping[str, str]) -> str:
    """Return a note about the sizes of the groups."""
    sizes = np.unique(list(groups.values()), return_counts=True)[1]
    if sizes.max() == 1:
        return f"config.data.group gives each of the {len(sizes)} images a group of its own: it has no effect."
    amount = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
    return f"{len(sizes)} groups of {amount} images (config.data.group): each is in one split as a whole."


def carve(
    labels: np.ndarray, ids: Sequence[str], groups: Mapping[str, str], total: int, seed: int, what: str
) -> np.ndarray:
    """Choose whole groups with about `total` examples and about that share of each class; every class keeps an example.

    Args:
      labels: int [n], labels of the examples.
      ids: ids of the examples.
      groups: the group of each id.
      total: how many examples to choose.
      seed: seed of the choice.
      what: name of the part, for messages and for the random key.

    Returns:
      bool [n], the chosen examples.

    Raises:
      DataError: no group can be chosen.
    """
    numbers = _numbers(ids, groups)
    share = total / len(labels)
    chosen = deal(labels, numbers, (1 - share, share), seed, what, "groups", keep_first=True) == 1
    return chosen if chosen.any() else numbers == _smallest(labels, numbers, seed, what)


def fold_of(labels: np.ndarray, ids: Sequence[str], groups: Mapping[str, str], folds: int, seed: int) -> np.ndarray:
    """Return the fold of each example, int64 [n]; groups stay whole, and each class is spread about evenly.

    Raises:
      DataError: there are fewer groups than folds.
    """
    numbers = _numbers(ids, groups)
    count = len(np.unique(numbers))
    if count < folds:
        raise DataError(
            f"config.data.folds={folds} needs at least as many groups, and config.data.group gives {count}."
        )
    return deal(labels, numbers, (1 / folds,) * folds, seed, "folds", "groups")


def deal(
    labels: np.ndarray,
    groups: np.ndarray,
    shares: Sequence[float],
    seed: int,
    *key: int | str,
    keep_first: bool = False,
) -> np.ndarray:
    """Assign each group to a part, so that each part gets about its share of every class and of all examples.

    The groups come in a random order, and each goes to the part where it adds the least imbalance. Several orders are
    tried, and the most balanced one is used. With `keep_first`, the first one is used that is good enough, or at most
    twice as imbalanced as the best.

    Args:
      labels: int [n], the class of each example.
      groups: int [n], the group of each example, from 0 without gaps.
      shares: share of each part; they add up to 1.
      seed: seed of the orders.
      *key: further key of the random numbers.
      keep_first: whether the first part must get an example of every class.

    Returns:
      int64 [n], the part of each example.
    """
    classes = int(labels.max()) + 1
    totals = np.bincount(labels, minlength=classes)
    pairs, counts = np.unique(groups.astype(np.int64) * classes + labels, return_counts=True)
    of_group, of_class = np.divmod(pairs, classes)
    amount = int(of_group[-1]) + 1
    starts = np.searchsorted(of_group, np.arange(amount + 1))
    # Of each group: its classes, and one more for all examples; their shares; the number of examples of each class.
    members = []
    for first, last in zip(starts, starts[1:], strict=False):
        some, number = of_class[first:last], counts[first:last]
        added = np.append(number * _UNIT // totals[some], number.sum() * _UNIT // len(labels))
        members.append((np.append(some, classes), added, number))
    found: list[tuple[float, np.ndarray]] = []
    for attempt in range(max(1, min(_ORDERS, _WORK // amount))):
        filled = np.zeros((len(shares), classes + 1), np.int64)
        left, part_of = totals.copy(), np.zeros(amount, np.int64)
        for group in keyed_random.permutation(amount, seed, *key, attempt):
            where, added, number = members[group]
            costs = ((2 * filled[:, where] + added) * added).sum(1) / np.array(shares)
            part = int(costs.argmin())
            if keep_first and part:
                if (left[where[:-1]] <= number).any():
                    part = 0
                else:
                    left[where[:-1]] -= number
            filled[part, where] += added
            part_of[group] = part
        squares = sum(float((row.astype(object) ** 2).sum()) / share for row, share in zip(filled, shares, strict=True))
        found.append((squares / _UNIT**2 / (classes + 1) - 1, part_of))
        if keep_first and found[-1][0] <= _NEAR:
            break
    least = min(unbalance for unbalance, _ in found)
    limit = max(_NEAR, 2 * least) if keep_first else least
    return next(part_of for unbalance, part_of in found if unbalance <= limit)[groups]


def settle(
    train: Examples,
    held: Examples,
    groups: Mapping[str, str],
    on_leak: str,
    names: tuple[str, str] = ("training", "test"),
) -> tuple[Examples, str]:
    """Handle groups that are in two splits that the data come with, as config.data.on_leak says.

    Args:
      train: the examples that may be dropped.
      held: the examples of the other split, which does not change.
      groups: the group of each id.
      on_leak: "warn", "drop" or "error".
      names: what messages call the two splits.

    Returns:
      (`train`, without the shared groups if they are dropped; a note, "" if no group is in both).

    Raises:
      DataError: a group is in both splits, and `on_leak` is "error".
    """
    shared = {groups[name] for name in held.ids} & {groups[name] for name in train.ids}
    if not shared:
        return train, ""
    leaked = [i for i, name in enumerate(train.ids) if groups[name] in shared]
    count = (
        f"{len(shared)} group{'s are' if len(shared) != 1 else ' is'} in the {names[0]} and in the {names[1]} split "
        f"that the data come with: {listed(sorted(shared), 5)}."
    )
    if on_leak == "error":
        raise DataError(
            f"{count} Divide the data differently, or set config.data.on_leak to drop (from {names[0]}) or warn."
        )
    if on_leak == "drop":
        kept = np.setdiff1d(np.arange(len(train)), leaked)
        return train.take(kept), f"{count} Their {len(leaked)} {names[0]} images were dropped."
    return train, (
        f"{count} Accuracies on the {names[1]} split are too high because of that; config.data.on_leak=drop "
        f"takes these groups out of {names[0]}."
    )


def _pattern(wanted: str, columns: Mapping[str, Mapping[str, str]]) -> re.Pattern:
    neither = f"config.data.group={wanted!r} is not a column of the data"
    neither += f" (their columns: {listed(columns)})" if columns else ""
    hint = "A pattern on the path has one group in parentheses, such as '(patient[0-9]+)_'."
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise DataError(f"{neither}, and not a regular expression either: {error}. {hint}") from None
    if pattern.groups != 1:
        raise DataError(f"{neither}, and as a regular expression it has {pattern.groups} groups. {hint}")
    return pattern


def _numbers(ids: Sequence[str], groups: Mapping[str, str]) -> np.ndarray:
    """Return the groups of examples as numbers from 0 on, int64 [n]."""
    return np.unique([groups[name] for name in ids], return_inverse=True)[1].astype(np.int64)


def _smallest(labels: np.ndarray, groups: np.ndarray, seed: int, what: str) -> int:
    """Return the smallest group without which every class still has an example; for few groups, where no share fits."""
    totals = np.bincount(labels)
    tie = keyed_random.raw(int(groups.max()) + 1, seed, what, "smallest group")
    fitting = []
    for group in range(len(tie)):
        counts = np.bincount(labels[groups == group], minlength=len(totals))
        if (counts < totals)[counts > 0].all():
            fitting.append((int(counts.sum()), int(tie[group]), group))
    if not fitting:
        raise DataError(
            f"The {what} split would be empty: each class must keep images to train on, and no group of "
            "config.data.group can be set aside. Give more groups"
            + (", or set config.data.validation to 0 to train without one." if what == "validation" else ".")
        )
    return min(fitting)[2]
