"""Choose examples by class: a stratified split, k of each class, or a share of each class.

All choices depend on (labels in the order of the ids, seed) only, so they are the same on every machine.
"""

from collections.abc import Mapping

import numpy as np

from flax_augtl.data import keyed_random
from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.splits import groups as grouping
from flax_augtl.data.types import Examples


def carve(
    examples: Examples,
    amount: float,
    seed: int,
    class_names: tuple[str, ...],
    what: str = "validation",
    groups: Mapping[str, str] | None = None,
) -> tuple[Examples, Examples | None]:
    """Take a stratified part out of some examples.

    Each class gives its share, rounded so that the total is exact. Each class keeps at least one example. With groups,
    whole groups are taken, so the total and the shares are approximate.

    Args:
      examples: the examples to take from.
      amount: a share in (0, 1), a count ≥ 1, or 0 for nothing.
      seed: seed of the choice.
      class_names: for messages.
      what: "validation" or "test": the field of `config.data` that holds `amount`. It is part of the random key, so
        that two parts with the same seed are independent.
      groups: {id: its group}; each group stays together.

    Returns:
      (the rest, the part), each in the order of `examples`; the part is None if `amount` is 0.

    Raises:
      DataError: the amount is invalid or too large, or the part would be empty.
    """
    if amount == 0:
        return examples, None
    field = f"config.data.{what}"
    if not (0 < amount < 1 or (amount >= 1 and float(amount).is_integer())):
        raise DataError(
            f"{field}={amount} is neither a share between 0 and 1, nor a whole number of examples, nor 0 for none."
        )
    n = len(examples)
    total = int(amount) if amount >= 1 else int(np.floor(amount * n + 0.5))
    counts = np.bincount(examples.labels, minlength=len(class_names))
    most = int(np.maximum(counts - 1, 0).sum())
    if total == 0 or (most == 0 and amount < 1):
        raise DataError(
            f"The {what} split would be empty: {field}={amount} of {n} examples in {np.count_nonzero(counts)} classes, "
            f"of which each class must keep one. Raise {field}, give more examples"
            + (", or set it to 0 to train without one." if what == "validation" else ".")
        )
    if total > most and amount >= 1:
        raise DataError(
            f"{field}={int(amount)} asks for more than there is: of {n} examples at most {most} can be taken, "
            "because each class must keep one."
        )
    if groups is not None:
        chosen = grouping.carve(examples.labels, examples.ids, groups, min(total, most), seed, what)
        return examples.take(np.flatnonzero(~chosen)), examples.take(np.flatnonzero(chosen))
    quota = _stratify(counts, min(total, most), seed, what)
    chosen = _first_of_each_class(examples.labels, quota, seed, what)
    return examples.take(np.flatnonzero(~chosen)), examples.take(np.flatnonzero(chosen))


def shots(examples: Examples, k: int, seed: int, class_names: tuple[str, ...]) -> tuple[Examples, Examples]:
    """Choose k examples of every class.

    Returns:
      (the chosen examples, the rest), each in the order of `examples`.

    Raises:
      DataError: k is not positive, or a class has fewer than k examples.
    """
    if k < 1:
        raise DataError(f"config.data.shots={k} must be at least 1; leave it out for all examples.")
    counts = np.bincount(examples.labels, minlength=len(class_names))
    few = np.flatnonzero(counts < k)
    if len(few):
        raise DataError(
            f"config.data.shots={k} asks for more examples than these classes have: "
            f"{listed(f'{class_names[c]} ({counts[c]})' for c in few)}. Lower it, or leave it out for all."
        )
    chosen = _first_of_each_class(examples.labels, np.full(len(class_names), k), seed, "shots")
    return examples.take(np.flatnonzero(chosen)), examples.take(np.flatnonzero(~chosen))


def sample(examples: Examples, rate: float, seed: int, class_names: tuple[str, ...]) -> Examples:
    """Keep a share of every class: a benchmark's sampling rate.

    The number of examples is rounded, and at least one. The samples of one seed are nested: those of 15 % are among
    those of 30 %.

    Raises:
      DataError: the rate is not above 0 and at most 1.
    """
    if not 0 < rate <= 1:
        raise DataError(f"config.data.rate={rate} must be above 0 and at most 1, the share of each class to train on.")
    if rate == 1:
        return examples
    counts = np.bincount(examples.labels, minlength=len(class_names))
    quota = np.minimum(counts, np.maximum(1, np.floor(rate * counts + 0.5).astype(np.int64)))
    return examples.take(np.flatnonzero(_first_of_each_class(examples.labels, quota, seed, "rate")))


def _stratify(counts: np.ndarray, total: int, seed: int, what: str) -> np.ndarray:
    """Distribute `total` over the classes by largest remainder, each keeping one example: int64 [classes]."""
    room = np.maximum(counts - 1, 0)
    exact = counts * (total / counts.sum())
    quota = np.minimum(np.floor(exact).astype(np.int64), room)
    tie = keyed_random.raw(len(counts), seed, what, "remainder")
    # Classes with the largest remainder come first. A second round is needed only if small classes had no room.
    while quota.sum() < total:
        open_ = np.flatnonzero(quota < room)
        owed = (exact - quota)[open_]
        order = open_[np.lexsort((tie[open_], -np.round(owed, 9)))]
        quota[order[: total - quota.sum()]] += 1
    return quota


def _first_of_each_class(labels: np.ndarray, quota: np.ndarray, seed: int, what: str) -> np.ndarray:
    """Choose the first quota[c] examples of every class c, in a random order of each class: bool [n]."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen[members[keyed_random.permutation(len(members), seed, what, int(label))[: quota[label]]]] = True
    return chosen
