"""Make datasets in Python, from arrays or from any iterable of image files."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_augtl.config.convert import typed_data
from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.load import examples_of, from_listing
from flax_augtl.data.sources.image_files import Listing
from flax_augtl.data.sources.unicode_names import Spelling, ids_of, look_alike_note
from flax_augtl.data.splits import folds
from flax_augtl.data.splits import groups as grouping
from flax_augtl.data.splits.make_splits import divide
from flax_augtl.data.splits.near_copies import ByContent
from flax_augtl.data.types import ArraySource, Dataset, Examples
from flax_augtl.runtime.paths import nfc

Labels = Sequence[int | str] | np.ndarray
Groups = Sequence[int | str] | np.ndarray | Mapping[str, Sequence[int | str] | np.ndarray]
# Groups given in Python act as a column of a list with this name.
_COLUMN = "groups"


def dataset_from_arrays(
    images: np.ndarray,
    labels: Labels,
    *,
    test: tuple[np.ndarray, Labels] | None = None,
    val: tuple[np.ndarray, Labels] | None = None,
    groups: Groups | None = None,
    class_names: Sequence[str] | None = None,
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
    name: str = "arrays",
) -> Dataset:
    """Make a dataset from images in memory.

    Args:
      images: uint8 [n, H, W, 3], the training images, or all images if there is no `test`.
      labels: n class numbers, or n class names.
      test: (images, labels) of the test split, with the same H and W.
      val: (images, labels) of the validation split, with the same H and W.
      groups: the group of each image, such as its patient. All images of a group are in one split. With `test` or
        `val`, a mapping such as {"train": groups, "test": groups}.
      class_names: the name of each class number. Required for numbers if some class has no image. By default, the
        numbers themselves, or the names in order.
      data: fields of config.data for the splits.
      seed: seed of all choices except the test split, which has `split_seed` in `data`.
      name: what messages call the dataset.

    Raises:
      DataError: the arrays do not match, a label is out of range, or `divide` finds an error.
    """
    fields = _fields(data)
    if fields.group is not None:
        raise DataError("Arrays have neither columns nor paths: give the group of each image as `groups`.")
    given = {"train": (images, labels), "val": val, "test": test}
    given = {split: part for split, part in given.items() if part is not None}
    if test is None:
        if val is not None:
            raise DataError("Give `test` with `val`: a validation split alone leaves nothing to test on.")
        given = {"all": given["train"]}
    names, numbers = _numbers([label for _, part in given.values() for label in np.asarray(part).tolist()], class_names)
    parts = {}
    for split, (pixels, part) in given.items():
        pixels = np.asarray(pixels)
        part = np.asarray(part).tolist()
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise DataError(f"Images must be uint8 [n, H, W, 3]; those of {split} are {pixels.dtype} {pixels.shape}.")
        if len(pixels) != len(part):
            raise DataError(f"There are {len(pixels)} images and {len(part)} labels of {split}.")
        parts[split] = examples_of(
            ArraySource(pixels), np.array([numbers[x] for x in part]), [f"{split}/{i:07d}" for i in range(len(part))]
        )
    column = _column(groups, {split: examples.ids for split, examples in parts.items()})
    return divide(
        name, names, parts, fields, seed, notes=_notes(names), find_copies=ByContent(_content),
        groups=None if column is None else grouping.groups_of(list(column), {_COLUMN: column}, _COLUMN),
    )  # fmt: skip


def dataset_from_files(
    files: Iterable[tuple[str | Path, int | str]],
    *,
    test: Iterable[tuple[str | Path, int | str]] | None = None,
    val: Iterable[tuple[str | Path, int | str]] | None = None,
    groups: Groups | None = None,
    class_names: Sequence[str] | None = None,
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Dataset:
    """Make a dataset from image files, given as (path, label) pairs; else like `dataset_from_arrays`.

    Raises:
      DataError: an image is given twice, or the scan or `divide` finds an error.
    """
    fields = _fields(data)
    given = {"train": list(files), "val": val and list(val), "test": test and list(test)}
    given = {split: part for split, part in given.items() if part}
    if "test" not in given:
        if "val" in given:
            raise DataError("Give `test` with `val`: a validation split alone leaves nothing to test on.")
        given = {"all": given.get("train", [])}
    if not given.get("train", given.get("all")):
        raise DataError("There are no files to train on.")
    column = _column(groups, {split: [os.fspath(path) for path, _ in pairs] for split, pairs in given.items()})
    if column is not None and fields.group is not None:
        raise DataError("Give `groups`, or `group` in `data`, but not both.")
    names, numbers = _numbers([label for part in given.values() for _, label in part], class_names)
    splits = {}
    for split, pairs in given.items():
        rows = sorted((os.fspath(path), numbers[label]) for path, label in pairs)
        splits[split] = (tuple(path for path, _ in rows), np.array([label for _, label in rows], np.int32))
    ids = ids_of((path for paths, _ in splits.values() for path in paths), Spelling(None))
    others = {path: name for path, name in ids.items() if path != name}
    if column is None:
        return from_listing(Listing("", names, splits, _notes(names), others), fields, seed)
    listing = Listing("", names, splits, _notes(names), others, columns={_COLUMN: column})
    return from_listing(listing, dataclasses.replace(fields, group=_COLUMN), seed)


def _column(groups: Groups | None, given: Mapping[str, Sequence[str]]) -> dict[str, str] | None:
    """Return {id or path of an image: its group}, "" if it has none; None if there are no groups.

    Args:
      groups: as the user gave them.
      given: the ids or paths of the images of each split; "all" if the images are not split yet.

    Raises:
      DataError: the groups do not match the images.
    """
    if groups is None:
        return None
    needed = {"train" if split == "all" else split: names for split, names in given.items()}
    if not isinstance(groups, Mapping):
        groups = {"train": groups}
    if set(groups) != set(needed):
        raise DataError(
            f"`groups` has groups for {listed(sorted(map(repr, groups)))}, but there are images for "
            f"{listed(sorted(map(repr, needed)))}. Give groups={{{', '.join(f'{split!r}: …' for split in needed)}}}."
        )
    found = {}
    for split, names in needed.items():
        of_split = groups[split]
        values = of_split.tolist() if isinstance(of_split, np.ndarray) else list(of_split)
        if len(values) != len(names):
            raise DataError(f"There are {len(names)} images and {len(values)} groups of {split}.")
        found |= {
            name: "" if value is None or value != value else str(value)
            for name, value in zip(names, values, strict=True)
        }
    return found


def _notes(names: Sequence[str]) -> tuple[str, ...]:
    note = look_alike_note(names)
    return (note,) if note else ()


def _fields(data: Mapping[str, Any] | None) -> DataConfig:
    """Return config.data with some fields replaced."""
    fields = typed_data(data or {})
    folds.check(fields)
    return fields


def _numbers(
    labels: list[int | str], class_names: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[int | str, int]]:
    """Return (class names, {label as given: its number}).

    Names that differ only by their Unicode form are one name. `divide` reports numbers out of range.
    """
    if class_names is not None and len(set(map(nfc, class_names))) < len(class_names):
        forms = list(map(nfc, class_names))
        twice = [name for name in dict.fromkeys(forms) if forms.count(name) > 1]
        raise DataError(f"Class names must differ; {listed(map(repr, twice))} is given more than once.")
    types = {type(label) for label in labels}
    if not labels or not (types <= {int} or types <= {str}):
        raise DataError(f"Labels must be whole numbers or names, and not both; there are {len(labels)}, of {types}.")
    if types == {int}:
        known = {int(label): int(label) for label in labels}
        names = tuple(class_names) if class_names is not None else tuple(str(i) for i in range(max(known) + 1))
        return names, {**known}
    words = [str(label) for label in labels]
    names = tuple(class_names) if class_names is not None else tuple(sorted(set(map(nfc, words))))
    numbers = {nfc(name): number for number, name in enumerate(names)}
    return names, {word: numbers.get(nfc(word), -1) for word in words}


def _content(examples: Examples, position: int) -> bytes:
    return examples.source[int(examples.indices[position])].tobytes()
