"""Make the training, validation and test splits for one seed from the parts that a dataset comes with."""

from collections.abc import Mapping

import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.sources.unicode_names import look_alikes
from flax_augtl.data.splits import folds, near_copies, stratify
from flax_augtl.data.splits import groups as grouping
from flax_augtl.data.types import Dataset, Examples


def divide(
    name: str,
    class_names: tuple[str, ...],
    parts: dict[str, Examples],
    data: DataConfig,
    seed: int,
    *,
    metric: str = "top1",
    notes: tuple[str, ...] = (),
    skipped: dict[str, str] | None = None,
    find_copies: near_copies.Finder | None = None,
    groups: Mapping[str, str] | None = None,
) -> Dataset:
    """Make the three splits.

    First, a test split is taken if there is none, or a fold becomes the test split. Second, copies of test images are
    handled. Third, the sampling rate and the shots are applied. Last, a validation split is taken from the rest if
    there is none. The test split depends on the data and config.data.split_seed only, so no test image of one seed is a
    training or validation image of another seed.

    Args:
      name: what messages call the dataset.
      class_names: the name of each label.
      parts: {"train", "test" and perhaps "val"}, or {"all"} alone.
      data: config.data.
      seed: seed of all choices except the test split. If config.data.split_seed is None, as in runs of earlier
        versions, the test split has this seed, too.
      metric: see `Dataset`.
      notes: see `Dataset`.
      skipped: see `Dataset`.
      find_copies: finds images that occur more than once; None to skip the search.
      groups: {id: its group}; each group stays in one split.

    Raises:
      DataError: a label is out of range, an id occurs twice, a class has no training image, a split is empty, or the
        settings do not fit the data.
    """
    _check_labels(name, class_names, parts)
    if groups is not None:
        notes = (*notes, grouping.note(groups))
    if "all" in parts or data.folds:
        parts, said = _set_aside(name, class_names, parts, data, seed, groups)
        notes = (*notes, said)
    train, val, test = parts["train"], parts.get("val"), parts["test"]
    _check_classes(name, class_names, train, {"val": val, "test": test})
    if groups is not None:
        train, val, said = _settle_groups(train, val, test, groups, data.on_leak)
        notes = (*notes, *said)
        _check_classes(name, class_names, train, {"val": val, "test": test})
    near = ()
    if find_copies is not None:
        train, val, found, near = near_copies.settle(train, val, test, find_copies, data, class_names)
        notes = (*notes, *found)
        _check_classes(name, class_names, train, {"val": val, "test": test})
    train = stratify.sample(train, data.rate, seed, class_names)
    if data.shots is not None:
        train, _ = stratify.shots(train, data.shots, seed, class_names)
    if val is None:
        train, val = stratify.carve(train, data.validation, seed, class_names, groups=groups)
    return Dataset(name, class_names, train, val, test, metric, notes, skipped=skipped or {}, near_copies=near)


def _set_aside(
    name: str,
    class_names: tuple[str, ...],
    parts: dict[str, Examples],
    data: DataConfig,
    seed: int,
    groups: Mapping[str, str] | None,
) -> tuple[dict[str, Examples], str]:
    """Make the test split from a fold, or for data that have none; return the parts and a note.

    A fold is taken from the training data. A validation split that the data come with stays; their test split is not
    used.
    """
    split_seed = seed if data.split_seed is None else data.split_seed
    whole = parts["all"] if "all" in parts else parts["train"]
    if data.folds:
        assert data.fold is not None, "`folds.check` refuses folds without a fold."
        rest, test = folds.hold_out(whole, data.folds, data.fold, split_seed, class_names, groups)
        said = (f"{len(test)} of {len(whole)} images are the test split: fold {data.fold} of the folds 0 to "
                f"{data.folds - 1} (config.data.split_seed={split_seed}).")  # fmt: skip
        if "test" in parts:
            said += f" The test split that the data come with, {len(parts['test'])} images, is not used."
    else:
        rest, test = stratify.carve(whole, data.test, split_seed, class_names, what="test", groups=groups)
        if test is None:
            raise DataError(
                f"{name} has no test split, and config.data.test=0 makes none. Set it to a share such as 0.2."
            )
        said = f"{len(test)} of {len(whole)} images were set aside as the test split, "
        said += ("by config.seed, as earlier versions did." if data.split_seed is None else
                 f"the same for every config.seed (config.data.split_seed={split_seed}).")  # fmt: skip
    own = {"val": parts["val"]} if "val" in parts else {}
    return {"train": rest, **own, "test": test}, said


def _settle_groups(
    train: Examples, val: Examples | None, test: Examples, groups: Mapping[str, str], on_leak: str
) -> tuple[Examples, Examples | None, list[str]]:
    """Handle groups that are in two splits that the data come with, as config.data.on_leak says."""
    train, said = grouping.settle(train, test, groups, on_leak)
    notes = [said]
    if val is not None:
        val, said = grouping.settle(val, test, groups, on_leak, ("validation", "test"))
        train, more = grouping.settle(train, val, groups, on_leak, ("training", "validation"))
        notes += [said, more]
    return train, val, [note for note in notes if note]


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
                raise DataError(
                    f"The example id {example_id} of {name} occurs twice, in {owner[example_id]} and {part}."
                )
            owner[example_id] = part


def _check_classes(
    name: str, class_names: tuple[str, ...], train: Examples, others: dict[str, Examples | None]
) -> None:
    """Check that no split is empty, and that every class has training examples."""
    known = np.bincount(train.labels, minlength=len(class_names)) > 0
    if known.sum() < 2:
        raise DataError(f"The training split of {name} has {known.sum()} classes; there must be at least two.")
    for split, examples in others.items():
        if examples is None:
            continue
        if not len(examples):
            raise DataError(f"The {split} split of {name} has no examples.")
        strange = np.flatnonzero(~known & (np.bincount(examples.labels, minlength=len(class_names)) > 0))
        if len(strange):
            names = {class_names[c] for c in strange}
            alike = [" and ".join(map(repr, group)) for group in look_alikes(class_names) if names & set(group)]
            hint = f" Only case or spaces tell these apart: {listed(alike, 3)}." if alike else ""
            raise DataError(
                f"These classes of {name} are in the {split} split only, so the network cannot be trained on them: "
                f"{listed(class_names[c] for c in strange)}. Add training images of them, or remove them.{hint}"
            )
