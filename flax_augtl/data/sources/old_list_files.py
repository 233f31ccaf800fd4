"""Read list files like the first version did, for runs that began with it: config.data.list_rules=1."""

import csv
import re
from collections.abc import Mapping
from pathlib import PurePath

import numpy as np
from etils import epath

from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.images.decode import SUFFIXES
from flax_augtl.data.sources.class_list import numbered_names
from flax_augtl.data.sources.cub_lists import numbered_lists
from flax_augtl.data.sources.image_files import Listing

_SUFFIX = re.compile(rf"^(.*?(?:{'|'.join(re.escape(suffix) for suffix in sorted(SUFFIXES))}))(?:\s+(.*))?$", re.I)
_NUMBER = re.compile(r"[\s_-]*\d+$")
_PATH_HEADERS = ("path", "file", "filename", "image", "image_path", "name")
_LABEL_HEADERS = ("label", "class", "target", "category", "class_name", "label_name")


def list_by_first_rules(
    root: epath.Path | str, files: Mapping[str, epath.Path], class_list: epath.Path | None
) -> Listing:
    """Read list files.

    Args:
      root: the folder or web address that the paths are relative to.
      files: the list of each split.
      class_list: the names of the classes, one in each line.

    Raises:
      DataError: a file is empty, a line has no label, a label is out of range, an image is listed twice, or there is
        only one class.
    """
    alone = len(files) == 1 and class_list is None
    if joined := numbered_lists(files["train"], root) if alone and not isinstance(root, str) else None:
        rows, names = joined
        numbers = {name: number for number, name in enumerate(names)}
    else:
        rows = {split: _read(file, root) for split, file in files.items()}
        names, numbers = _classes(rows, class_list)
    splits, owner, notes = {}, {}, []
    for split, pairs in rows.items():
        for path, _ in pairs:
            if path in owner:
                where = (
                    f"twice in the {split} list" if owner[path] == split else f"in the {owner[path]} and {split} lists"
                )
                raise DataError(f"The image {path} is {where}. Each image may be listed once.")
            owner[path] = split
        pairs = sorted(pairs)
        splits[split] = (tuple(p for p, _ in pairs), np.array([numbers[label] for _, label in pairs], np.int32))
    if len(splits) == 1:
        splits = {"all": splits["train"]}
    elif "test" not in splits:
        splits["test"] = splits.pop("val")
        notes.append("There are a training and a validation list only: the validation list is used as the test split.")
    return Listing(str(root), names, splits, tuple(notes))


def _read(file: epath.Path, root: epath.Path | str) -> list[tuple[str, str]]:
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"The list file {file} is not UTF-8 text. Save it as UTF-8.") from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    separator = "\t" if any("\t" in line for _, line in numbered) else "," if file.suffix.lower() == ".csv" else None
    rows = []
    columns = (0, 1)
    for position, (number, line) in enumerate(numbered):
        cells = _cells(line, separator)
        if position == 0 and cells[0].lower() in _PATH_HEADERS + _LABEL_HEADERS and len(cells) > 1:
            columns = _columns(cells, file)
            continue
        path = cells[columns[0]] if columns[0] < len(cells) else ""
        label = cells[columns[1]] if columns[1] < len(cells) else ""
        if not path:
            raise DataError(f"{file}, line {number}: there is no path in “{line}”.")
        label = label or PurePath(path).parent.name or _NUMBER.sub("", PurePath(path).stem)
        if not label:
            raise DataError(
                f"{file}, line {number}: “{line}” has no label, and the image has no folder or name that could be one. "
                "Write the label behind the path."
            )
        rows.append((_with_suffix(path, root), label))
    if not rows:
        raise DataError(f"The list file {file} has no images in it.")
    return rows


def _cells(line: str, separator: str | None) -> list[str]:
    if separator:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
    match = _SUFFIX.match(line)  # Paths and labels may contain spaces.
    cells = match.groups(default="") if match else line.split(None, 1)
    return [cell.strip() for cell in cells]


def _columns(header: list[str], file: epath.Path) -> tuple[int, int]:
    names = [name.lower() for name in header]
    path = next((i for i, name in enumerate(names) if name in _PATH_HEADERS), None)
    label = next((i for i, name in enumerate(names) if name in _LABEL_HEADERS), None)
    if path is None or label is None:
        raise DataError(f"{file}: the heading has the columns {listed(header)}; one must be called path and one label.")
    return path, label


def _with_suffix(path: str, root: epath.Path | str) -> str:
    if PurePath(path).suffix.lower() in SUFFIXES or isinstance(root, str) or (root / path).exists():
        return path
    return next((path + suffix for suffix in sorted(SUFFIXES) if (root / (path + suffix)).exists()), path)


def _classes(
    rows: dict[str, list[tuple[str, str]]], class_list: epath.Path | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return (class names, {label as written: its number})."""
    written = sorted({label for pairs in rows.values() for _, label in pairs})
    are_numbers = all(re.fullmatch(r"[+-]?\d+", label) for label in written)
    if class_list:
        lines = class_list.read_bytes().decode("utf-8-sig").splitlines()
        names = tuple(line.strip() for line in lines if line.strip())
        if len(set(names)) < len(names):
            raise DataError(f"{class_list} has a class name twice.")
        known = {str(i): i for i in range(len(names))} if are_numbers else {name: i for i, name in enumerate(names)}
        plain = {label: str(int(label)) if are_numbers else label for label in written}
        strange = [label for label in written if plain[label] not in known]
        if strange:
            raise DataError(
                f"These labels are not among the {len(names)} classes of {class_list}: {listed(strange)}."
                + (f" Numbers go from 0 to {len(names) - 1}." if are_numbers else "")
            )
        numbers = {label: known[plain[label]] for label in written}
    else:
        names = numbered_names(written) if are_numbers else tuple(written)
        numbers = {label: names.index(str(int(label)) if are_numbers else label) for label in written}
    if len(set(numbers.values())) < 2:
        raise DataError(f"The lists have only one class, {written[0]}. There must be at least two.")
    return names, numbers
