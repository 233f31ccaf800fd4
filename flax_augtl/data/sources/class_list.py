"""Read the file of class names: lines with or without numbers and a heading, or JSON."""

import ast
import csv
import json
import re
from collections.abc import Collection, Iterable

from etils import epath

from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.sources.list_paths import nfc
from flax_augtl.data.sources.list_words import compact

_NUMBERS = frozenset(
    "id index idx number no nr label key code classid classidx labelid targetid categoryid y wnid".split()
)
_NAMES = frozenset(
    "class classes name names classname classnames label labels labelname labelnames category categories categoryname "
    "target targetname description species breed".split()
)
_ALONE = _NAMES - {"description"}
# "0. ants", "0) ants", "0=ants", "0|ants", "0 - ants".
_MARKED = re.compile(r"(\d+)(?:\s*[)|=]\s*|\.\s+|\s+-\s+)(\S.*)", re.ASCII)
Pair = tuple[str, str]  # (the key that lists may use for a class, its name).


def read_class_list(file: epath.Path, labels: Collection[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Read the names of the classes.

    Args:
      file: one name in each line, or a number (or another key) and a name, separated by a comma, semicolon, tab, colon
        or spaces. A first line such as `id,name` or `class` is a heading. JSON, or a Python literal, is a list of
        names, or an object of numbers and names.
      labels: the labels of the lists. They decide if a line can be read in two ways.

    Returns:
      (the names in the order of their numbers, {label that a list may use: its position among the names}).

    Raises:
      DataError: the file is not text, has no class, or has a name or number twice.
    """
    content = file.read_bytes()
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"The class list {file} is not UTF-8 text. Save it as UTF-8.") from None
    if file.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        pairs, numbered = _from_json(file, text, labels)
    else:
        lines = [nfc(line.strip()) for line in text.splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith("#") or line in labels]
        pairs, numbered = _from_lines(file, lines, labels) if lines else ([], True)
    if not pairs:
        raise DataError(f"The class list {file} has no class in it.")
    for what, values in (("name", [name for _, name in pairs]), ("number", [key for key, _ in pairs])):
        twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if twice:
            raise DataError(f"{file} has a class {what} twice: {listed(twice)}.")
    empty = next((key for key, name in pairs if not name), None)
    if empty is not None:
        raise DataError(f"{file} has no name for the class {empty}.")
    if numbered:
        pairs = sorted(pairs, key=lambda pair: int(pair[0]))
    names = tuple(name for _, name in pairs)
    positions = {name: position for position, name in enumerate(names)}
    # If all labels are numbers, they are keys, even if the name of a class is a number.
    keys = {key: position for position, (key, _) in enumerate(pairs)}
    return names, keys if labels and all(label in keys for label in labels) else {**keys, **positions}


def numbered_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the class names of labels that are all whole numbers: the numbers themselves, in their order.

    Raises:
      DataError: a number is negative.
    """
    numbers = sorted({int(label) for label in labels})
    if numbers[0] < 0:
        raise DataError(f"The label {numbers[0]} is out of range: class numbers are not negative.")
    return tuple(map(str, numbers))


def _from_lines(file: epath.Path, lines: list[str], labels: Collection[str]) -> tuple[list[Pair], bool]:
    """Return (pairs of key and name, whether the keys are numbers that give the order)."""
    whole = [(str(i), line) for i, line in enumerate(lines)]
    named = bool(labels) and not all(map(_is_number, labels))
    if named and set(labels) <= set(lines):
        return _without_heading(whole, labels, named), True
    marked = [(match[1], match[2]) for match in map(_MARKED.fullmatch, lines) if match]
    if len(dict(marked)) == len(lines):
        return [(str(int(number)), name) for number, name in marked], True
    for separator in ("\t", ";", ",", ":", None):
        rows = [_cells(line, separator) for line in lines]
        if separator in ("\t", ";", ",") and not all(len(row) == 2 for row in rows):
            if found := _by_heading(rows, labels):
                return found
            if all(len(row) > 1 and _is_number(row[0]) for row in rows):
                rows = [[row[0], line.split(separator, 1)[1].strip()] for row, line in zip(rows, lines, strict=True)]
        if all(len(row) == 2 for row in rows):
            if not any(cell for _, cell in rows):
                return _from_lines(file, [cell for cell, _ in rows], labels)  # Each line ends with a separator.
            if found := _two_columns(rows, separator, labels, named):
                return found
    if file.suffix.lower() == ".csv" or all(len(line) > 1 and line[0] == line[-1] == '"' for line in lines):
        # One column: a name with a comma is quoted.
        whole = [(key, next(csv.reader([line]))[0] if line.startswith('"') else line) for key, line in whole]
    return _without_heading(whole, labels, named), True


def _two_columns(
    rows: list[list[str]], separator: str | None, labels: Collection[str], named: bool
) -> tuple[list[Pair], bool] | None:
    """Read lines of a number and a name in either order, or of a key and a name; None if they have another form."""
    head = rows[0]
    headed = any(_is_number_word(head[c]) and _is_name_word(head[1 - c]) for c in (0, 1))
    # Data frames leave the heading of their index empty.
    unknown = len(rows) > 2 and not (head[0] and any(map(_is_number, head))) and any(
        all(_is_number(row[c]) for row in rows[1:]) for c in (0, 1))  # fmt: skip
    body = rows[1:] if headed or unknown else rows
    for key, name in ((0, 1), (1, 0)):
        keys = [row[key] for row in body]
        if not all(map(_is_number, keys)) or len(set(keys)) < len(keys) and not separator:
            continue
        run = sorted(map(int, keys)) in (list(range(len(keys))), list(range(1, len(keys) + 1)))
        # "4 wheels" is a name, unless there is a separator, or the numbers are a full sequence.
        if separator or headed or unknown or (run and len(keys) > 1):
            return [(str(int(row[key])), row[name]) for row in body], True
    if headed:
        name = 1 if _is_name_word(head[1]) else 0
        if named and set(labels) <= {row[1 - name] for row in body}:
            return [(row[1 - name], row[name]) for row in body], False  # Such as n01440764 and tench.
        return [(str(i), row[name]) for i, row in enumerate(body)], True
    if separator and (found := _by_heading(rows, labels)):
        return found
    if named and any(set(labels) <= {row[c] for row in body} for c in (0, 1)):
        return [(row[0], row[1]) for row in body], False
    return None


def _cells(line: str, separator: str | None) -> list[str]:
    if separator in ("\t", ";", ","):
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
    return [cell.strip() for cell in line.split(separator, 1)]


def _by_heading(rows: list[list[str]], labels: Collection[str]) -> tuple[list[Pair], bool] | None:
    """Read a table whose heading has a column of names, and perhaps one of numbers or of the labels' keys."""
    head = [compact(cell) for cell in rows[0]]
    if len(head) < 2 or len(rows) < 2 or any(len(row) != len(head) for row in rows):
        return None
    body = rows[1:]
    # Data frames leave the heading of their index empty.
    numbers = [
        c for c, word in enumerate(head) if (word in _NUMBERS or not word) and all(_is_number(row[c]) for row in body)
    ]
    names = [c for c, word in enumerate(head) if word in _NAMES and c not in numbers]
    if not names:
        return None
    keys = [c for c in range(len(head)) if c != names[0] and labels and set(labels) <= {row[c] for row in body}]
    if numbers:
        return [(str(int(row[numbers[0]])), row[names[0]]) for row in body], True
    if keys:
        return [(row[keys[0]], row[names[0]]) for row in body], False
    return [(str(i), row[names[0]]) for i, row in enumerate(body)], True


def _without_heading(pairs: list[Pair], labels: Collection[str], named: bool) -> list[Pair]:
    """Drop a first line such as `class`, unless a label refers to it."""
    if len(pairs) < 2 or compact(pairs[0][1]) not in _ALONE:
        return pairs
    needed = pairs[0][1] in labels if named else any(int(label) == len(pairs) - 1 for label in labels)
    return pairs if needed else [(str(i), name) for i, (_, name) in enumerate(pairs[1:])]


def _from_json(file: epath.Path, text: str, labels: Collection[str]) -> tuple[list[Pair], bool]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            found = ast.literal_eval(text.strip())  # Such as {0: 'tench', 1: 'goldfish'}.
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise DataError(f"The class list {file} is not valid JSON ({error}).") from None
    if isinstance(found, list) and all(isinstance(name, str) for name in found):
        return [(str(i), nfc(name.strip())) for i, name in enumerate(found)], True
    if isinstance(found, dict) and all(isinstance(key, (str, int)) for key in found):
        found = {str(key): value for key, value in found.items()}
        values = list(found.values())
        if all(map(_is_number, found)) and all(isinstance(name, str) for name in values):
            return [(str(int(key)), nfc(name.strip())) for key, name in found.items()], True
        if all(map(_is_number, found)) and all(map(_is_pair, values)):
            # The form of ImageNet's class index: {"0": ["n01440764", "tench"]}.
            values = [found[key] for key in sorted(found, key=int)]
            if labels and set(labels) <= {key for key, _ in values}:
                return [(key, nfc(name.strip())) for key, name in values], False
            return [(str(int(key)), nfc(name.strip())) for key, (_, name) in found.items()], True
        if all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values):
            return [(str(value), nfc(name.strip())) for name, value in found.items()], True
    raise DataError(f'{file} must be a list of names, or an object such as {{"0": "cat", "1": "dog"}}.')


def _is_pair(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(cell, str) for cell in value)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+", text) is not None and text.isascii()


def _is_number_word(word: str) -> bool:
    return compact(word) in _NUMBERS


def _is_name_word(word: str) -> bool:
    return compact(word) in _NAMES
