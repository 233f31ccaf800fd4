"""The parts that a data set comes with → train, validation and test for one seed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_augtl.data import copies, splits
from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.examples import Dataset, Examples


def divide(
    name: str,
    class_names: tuple[str, ...],
    parts: dict[str, Examples],
    data: Mapping[str, Any],
    seed: int,
    *,
    metric: str = "top1",
    notes: tuple[str, ...] = (),
    skipped: dict[str, str] | None = None,
    find_copies: copies.Finder | None = None,
) -> Dataset:
    """Make the three splits.

    In this order: a test split is carved where there is none; copies of test pictures are dealt with; the sampling rate
    and the shots are taken; validation is carved, where there is none, from what is left.

    Args:
        name: for messages.
        class_names: one a label.
        parts: {"train", "test" and perhaps "val"}, or {"all"} alone.
        data: config.data.
        seed: governs every choice.
        metric, notes, skipped: see `Dataset`.
        find_copies: finds images that are there more than once; None where there can be none.

    Raises:
        DataError: see `splits` and `copies`; a label out of range; an id twice; a class that is not trained on; an empty
            split.
    """
    _check_labels(name, class_names, parts)
    if "all" in parts:
        rest, test = splits.carve(parts["all"], data["test"], seed, class_names, what="test")
        if test is None:
            raise DataError(f"{name} has no test split, and config.data.test=0 makes none. Set it to a share such as 0.2.")
        parts = {"train": rest, "test": test}
        notes = (*notes, f"{len(test)} of {len(test) + len(rest)} examples were set aside as the test split, by seed.")
    train, val, test = parts["train"], parts.get("val"), parts["test"]
    _check_classes(name, class_names, train, {"val": val, "test": test})
    near = ()
    if find_copies is not None:
        train, val, found, near = copies.settle(train, val, test, find_copies, data, class_names)
        notes = (*notes, *found)
        _check_classes(name, class_names, train, {"val": val, "test": test})
    train = splits.sample(train, data["rate"], seed, class_names)
    if data["shots"] is not None:
        train, _ = splits.shots(train, int(data["shots"]), seed, class_names)
    if val is None:
        train, val = splits.carve(train, data["validation"], seed, class_names)
    return Dataset(name, class_names, train, val, test, metric, notes, skipped=skipped or {}, near_copies=near)


def _check_labels(name: str, class_names: tuple[str, ...], parts: dict[str, Examples]) -> None:
    owner: dict[str, str] = {}
    for part, examples in parts.items():
        wrong = np.flatnonzero((examples.labels < 0) | (examples.labels >= len(class_names)))
        if len(wrong):
            raise DataError(
                f"{len(wrong)} labels of {name} are out of range 0 … {len(class_names) - 1}; the first is "
                f"{examples.labels[wrong[0]]}, of {examples.ids[wrong[0]]}."
            )
        for example_id in examples.ids:
            if example_id in owner:
                raise DataError(f"The example id {example_id} of {name} is there twice, in {owner[example_id]} and {part}.")
            owner[example_id] = part


def _check_classes(name: str, class_names: tuple[str, ...], train: Examples, others: dict[str, Examples | None]):
    """Every split has examples, and none of a class that nothing was learned of."""
    known = np.bincount(train.labels, minlength=len(class_names)) > 0
    if known.sum() < 2:
        raise DataError(f"The training split of {name} has {known.sum()} classes; there must be two at least.")
    for split, examples in others.items():
        if examples is None:
            continue
        if not len(examples):
            raise DataError(f"The {split} split of {name} has no examples.")
        strange = np.flatnonzero(~known & (np.bincount(examples.labels, minlength=len(class_names)) > 0))
        if len(strange):
            raise DataError(
                f"These classes of {name} are in the {split} split only, so nothing can be learned of them: "
                f"{listed(class_names[c] for c in strange)}. Add training pictures of them, or remove them."
            )
