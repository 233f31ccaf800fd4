"""Read list files, with one image in each line: one file for each split, or one with a column of splits."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

import numpy as np
from etils import epath

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.sources.class_list import numbered_names, read_class_list
from flax_augtl.data.sources.cub_lists import CLASSES, numbered_lists
from flax_augtl.data.sources.downloads import copy_of, fetch, is_url, local_path
from flax_augtl.data.sources.image_files import Listing, placed
from flax_augtl.data.sources.list_columns import Row, rows_of
from flax_augtl.data.sources.list_paths import ListedFiles, nfc
from flax_augtl.data.sources.list_tables import read_table
from flax_augtl.data.sources.old_list_files import list_by_first_rules
from flax_augtl.data.sources.unicode_names import look_alike_note
from flax_augtl.runtime.paths import Finder, is_remote

_NUMBER = re.compile(r"[\s_-]*\d+$")
_TRIED = 5  # Number of images that are looked up to check the root.


def list_files(data: DataConfig) -> tuple[epath.Path | str, dict[str, epath.Path]]:
    """Return the root of the listed paths, as a text if it is a web address, and the list file of each split.

    Raises:
      DataError: the root or a list does not exist.
    """
    given = {"train": data.train_list, "val": data.val_list, "test": data.test_list}
    if not given["train"]:
        raise DataError(
            'config.data.name="list" needs config.data.train_list, a file with an image and its label in each line; '
            "test_list and val_list may be given too."
        )
    root = local_path(os.fspath(data.root or "."))
    if is_url(root):
        return root, {split: _find(path, None) for split, path in given.items() if path}
    root = epath.Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"config.data.root={root}, which the listed paths are relative to, is not a folder.")
    return root, {split: _find(path, root) for split, path in given.items() if path}


def list_lists(data: DataConfig, spelling: Callable[[str], str] | None = None) -> Listing:
    """Read the list files of config.data: `train_list`, and `val_list` and `test_list` if they are set.

    docs/data.md describes the formats. If there is no label, the class is the folder of the image, or else its name up
    to the number at the end. Paths are relative to `root`, or else to the working directory or the folder of the list.
    A single `train_list` may have a column of splits, or the three files beside it that `numbered_lists` joins.

    Labels are names or numbers. Numbers are those of `class_list`, if it is set; else they are the names, in numerical
    order.

    Args:
      data: config.data.
      spelling: makes the spelling of ids and class names; by default `nfc`.

    Raises:
      DataError: a file does not exist or is empty, the columns are ambiguous, a line has no label, a label is out of
        range, an image is listed twice, or there is only one class.
    """
    spelling = spelling or nfc
    root, files = list_files(data)
    folder = None if isinstance(root, str) else root
    class_list = _find(data.class_list, folder) if data.class_list else None
    if data.list_rules < 2:
        return list_by_first_rules(root, files, class_list)
    alone = len(files) == 1 and class_list in (None, files["train"].parent / CLASSES)
    if joined := numbered_lists(files["train"], folder) if alone and folder is not None else None:
        rows = {split: [Row(0, path, label, "", {}) for path, label in pairs] for split, pairs in joined[0].items()}
        names = tuple(map(spelling, joined[1]))
        numbers = {nfc(name): number for number, name in enumerate(names)}
        return _listing(rows, ListedFiles(str(root)), names, numbers, (), spelling)
    roots = [str(root)] if data.root else [str(root), os.fspath(files["train"].parent)]
    rows, listed_files, notes = _read_all(files, roots, data, class_list)
    names, numbers, more = _classes(rows, class_list)
    return _listing(rows, listed_files, tuple(map(spelling, names)), numbers, (*notes, *more), spelling)


def from_rows(
    rows: Mapping[str, list[Row]], root: str, notes: tuple[str, ...], spelling: Callable[[str], str] | None = None
) -> Listing:
    """Make a listing from rows with labels, {"train" | "val" | "test" | "all": rows}.

    Args:
      rows: the rows of each split; "all" must still be split.
      root: the folder that the paths are relative to.
      notes: sentences for the log.
      spelling: makes the spelling of ids and class names; by default `nfc`.

    Raises:
      DataError: an image is listed twice, or there is only one class.
    """
    spelling = spelling or nfc
    names, numbers, more = _classes(rows, None)
    return _listing(rows, ListedFiles(root), tuple(map(spelling, names)), numbers, (*notes, *more), spelling)


def _find(path: str, root: epath.Path | None) -> epath.Path:
    """Return the path of a list file, relative to the working directory or the root; download one on the web."""
    path = local_path(os.fspath(path))
    if is_url(path):
        for reason in fetch([path]).values():
            raise DataError(f"The list file {path} could not be fetched: {reason}.")
        return epath.Path(copy_of(path))
    find = Finder()
    for candidate in (epath.Path(path).expanduser(), *([root / path] if root is not None else [])):
        candidate = epath.Path(find(candidate))
        if candidate.is_file():
            return candidate
        if candidate.is_dir():
            raise DataError(f"{candidate} is a folder, where a list file is needed.")
    below = "" if root in (None, epath.Path(".")) else f", neither here nor under {root}"
    raise DataError(f"The list file {path} does not exist{below}.")


def _read_all(
    files: Mapping[str, epath.Path], roots: list[str], data: DataConfig, class_list: epath.Path | None
) -> tuple[dict[str, list[Row]], ListedFiles, list[str]]:
    """Read every list with the first root below which there are images."""
    lines = class_list.read_bytes().decode("utf-8-sig", "replace").splitlines() if class_list else ()
    known = {cell.strip() for line in lines for cell in (line, *re.split(r"[\t;,]", line))}
    tried: list[tuple[dict[str, list[Row]], ListedFiles]] = []
    first: list[str] = []
    for root in roots:
        found = ListedFiles(root)
        tables = {split: read_table(file, found.is_there) for split, file in files.items()}
        given = {split: rows_of(t, str(files[split]), data, found.is_there, known) for split, t in tables.items()}
        first = [row.path for rows in given.values() for row in rows[:_TRIED]]
        tried.append((given, found))
        if any(is_url(path) or is_url(root) or found.is_there(path) for path in first):
            break
    else:
        given, found = tried[0]
        if elsewhere := _elsewhere(first, files["train"], found.root):
            raise DataError(
                f"{files['train']}: {first[0]} is not below {found.root}. It is below {elsewhere}: set "
                f"config.data.root={elsewhere}."
            )
    notes = [f"Paths are relative to the folder of the list, {found.root}."] if found is not tried[0][1] else []
    for split, row in ((split, row) for split, some in given.items() for row in some if not _label(row)):
        raise DataError(
            f"{files[split]}, line {row.line}: “{row.path}” has no label, and the image has no folder or name that "
            "could be one. Write the label behind the path."
        )
    rows, more = _by_split(given, files)
    return rows, found, [*notes, *more]


def _elsewhere(paths: list[str], file: epath.Path, root: str) -> str | None:
    """Return the only other folder that has the first images: that of the list, or one below the root."""
    below = [] if is_remote(root) else sorted(entry.path for entry in os.scandir(root) if entry.is_dir())
    others = [folder for folder in (os.fspath(file.parent), *below) if all(map(ListedFiles(folder).is_there, paths))]
    return others[0] if len(others) == 1 else None


def _by_split(
    given: Mapping[str, list[Row]], files: Mapping[str, epath.Path]
) -> tuple[dict[str, list[Row]], list[str]]:
    """Sort the rows by their column of splits, if there is one; return them with notes."""
    rows: dict[str, list[Row]] = {}
    counts = {}
    for split, some in given.items():
        same = [other for other, file in files.items() if file == files[split]]
        for row in some:
            mine = row.split or split
            if mine != split:
                if mine in same or (split != "train" and "train" in same):
                    continue  # The same file is the list of several splits.
                if split != "train" or mine in files:
                    raise DataError(
                        f"{files[split]}, line {row.line}: “{row.path}” is marked {mine}, but the file is the {split} "
                        "list. Give one list with its column of splits alone, or set "
                        'config.data.split_column="" to use none.'
                    )
            rows.setdefault(mine, []).append(row)
        if some and some[0].split:
            counts[split] = {mine: sum(row.split == mine for row in some) for mine in ("train", "val", "test")}
    notes = [
        f"{files[split]} says the split of each image: "
        + ", ".join(f"{n} {mine}" for mine, n in count.items() if n) + "."
        for split, count in counts.items()
    ]  # fmt: skip
    notes = list(dict.fromkeys(notes))
    if "train" not in rows:
        raise DataError(f"{files['train']} marks no image train: there is nothing to train on.")
    return rows, notes


def _listing(
    rows: Mapping[str, list[Row]],
    files: ListedFiles,
    names: tuple[str, ...],
    numbers: Mapping[str, int],
    notes: tuple[str, ...],
    spelling: Callable[[str], str],
) -> Listing:
    root, splits, said = files.root, {}, list(notes)
    if note := look_alike_note(names):
        said.append(note)
    owner: dict[str, tuple[str, str, Row]] = {}
    columns: dict[str, dict[str, str]] = {}
    for split, some in rows.items():
        pairs = []
        for row in some:
            path = files.find(row.path)
            full = placed(root, path)
            key = full if is_remote(full) else os.path.normpath(full)
            if key in owner:
                raise DataError(_twice(owner[key], (split, path, row)))
            owner[key] = split, path, row
            pairs.append((path, numbers[_label(row)]))
            for column, value in row.further.items():
                columns.setdefault(column, {})[path] = value
        pairs.sort()
        splits[split] = (tuple(path for path, _ in pairs), np.array([number for _, number in pairs], np.int32))
    if len(splits) == 1:
        splits = {"all": next(iter(splits.values()))}
    elif "test" not in splits:
        splits["test"] = splits.pop("val")
        said.append("There are a training and a validation list only: the validation list is used as the test split.")
    ids = {path: spelling(path) for paths, _ in splits.values() for path in paths if not path.isascii()}
    ids = {path: name for path, name in ids.items() if path != name}
    # Paths on the web are complete, so they have no root.
    return Listing("" if is_url(root) else root, names, splits, tuple(said), ids, columns)


def _twice(first: tuple[str, str, Row], second: tuple[str, str, Row]) -> str:
    (split, path, row), (other_split, other_path, other) = first, second
    where = f"twice in the {split} list" if split == other_split else f"in the {split} and {other_split} lists"
    what = f"The image {path} is" if path == other_path else f"The image {path} is, also as {other_path},"
    labels = "" if _label(row) == _label(other) else f", under the labels {_label(row)} and {_label(other)}"
    return f"{what} {where}{labels}. Each image may be listed once."


def _label(row: Row) -> str:
    """Return the label as written; else the folder, or the name up to its number."""
    if row.label:
        return nfc(row.label)
    path = PurePosixPath(row.path.replace("\\", "/"))
    return nfc(path.parent.name or _NUMBER.sub("", path.stem))


def _classes(
    rows: Mapping[str, list[Row]], class_list: epath.Path | None
) -> tuple[tuple[str, ...], dict[str, int], list[str]]:
    """Return (class names, {label as written: its number}, notes)."""
    written = sorted({_label(row) for some in rows.values() for row in some})
    are_numbers = all(re.fullmatch(r"[+-]?\d+", label) for label in written)
    notes = []
    if class_list:
        # Data frames write whole numbers as 1.0 where a column has a gap.
        are_numbers = all(re.fullmatch(r"[+-]?\d+(\.0+)?", label) for label in written)
        plain = {label: str(int(float(label))) if are_numbers else label for label in written}
        names, known = read_class_list(class_list, set(plain.values()))
        strange = [label for label in written if plain[label] not in known]
        if strange:
            keys = sorted(int(key) for key in known if key.isdecimal())
            has = (
                f"Its numbers are {listed(map(str, keys), 8)}." if are_numbers and keys else
                f"Its classes are {listed(names, 8)}."
            )  # fmt: skip
            raise DataError(
                f"These labels of the lists are not in the class list {class_list}: {listed(strange)}. {has} Correct "
                "one of the two, or leave config.data.class_list out."
            )
        numbers = {label: known[plain[label]] for label in written}
        empty = [name for i, name in enumerate(names) if i not in set(numbers.values())]
        if empty:
            told = f"These classes of {class_list} have no image in the lists: {listed(empty)}."
            if are_numbers and empty == [names[-1]] and known.get("0") == 0:  # All names seem to be shifted by one.
                told += f" If {names[0]}, the first, is a heading and no class, remove it."
            notes.append(told)
    else:
        names = numbered_names(written) if are_numbers else tuple(written)
        numbers = {label: names.index(str(int(label)) if are_numbers else label) for label in written}
        if hashes := [label for label in written if " #" in label]:
            notes.append(
                f"These classes have a # in their name: {listed(hashes)}. Only a line that begins with # is a comment. "
                "If a comment was meant, put it on a line of its own."
            )
    if len(set(numbers.values())) < 2:
        raise DataError(f"The lists have only one class, {written[0]}. There must be at least two.")
    return names, numbers, notes
