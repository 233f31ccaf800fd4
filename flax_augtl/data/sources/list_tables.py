"""Read the rows of a list file: CSV, TSV, JSON Lines, or text with spaces between path and label."""

import csv
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from flax_augtl.data.errors import DataError
from flax_augtl.data.images.decode import SUFFIXES
from flax_augtl.data.sources.list_words import is_label_word, is_path_word, looks_like_image, split_values

_SEPARATORS = ("\t", ";", ",", "|")
_PATH_FIRST = re.compile(rf"^(.*?(?:{'|'.join(re.escape(suffix) for suffix in sorted(SUFFIXES))}))(?:\s+(.*))?$", re.I)
_SAMPLE = 200  # Number of lines that decide on the separator.
Numbered = list[tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a list.

    Attributes:
      rows: (number of the line, cells); the first row may be a heading.
      heading: the names of the columns, if the format has them; None if the first row may be the heading.
      blanks: whether spaces separate the cells. A row then has one or two cells, or three with a split.
    """

    rows: list[tuple[int, list[str]]]
    heading: tuple[str, ...] | None = None
    blanks: bool = False


def read_table(file: epath.Path, is_there: Callable[[str], bool]) -> Table:
    """Read a list file without its empty lines and `#` comments.

    Args:
      file: the list.
      is_there: tells whether a listed path is that of a file, or of a folder if it ends with "/".

    Raises:
      DataError: the file is not text in UTF-8 or UTF-16, or not valid JSON.
    """
    text = _text(file)
    suffix = file.suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _json_table(file, text, lines=suffix != ".json")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines = _without_comments(lines, is_there)
    if len(lines) > 1 and re.fullmatch(r"sep=[;,|\t]?", lines[0][1], re.I):
        lines = lines[1:]  # A line for Excel.
    separator = _separator(lines, suffix) if lines else None
    if separator:
        return Table(list(_separated(lines, separator, file)))
    return _by_blanks(lines, is_there)


def _text(file: epath.Path) -> str:
    content = file.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise DataError(f"The list file {file} is not UTF-8 text. Save it as UTF-8.") from None


def _without_comments(lines: Numbered, is_there: Callable[[str], bool]) -> Numbered:
    """Drop lines that begin with `#`, except a heading in the first line, and names of files and folders."""
    kept = []
    for position, (number, line) in enumerate(lines):
        if line.startswith("#"):
            words = re.split(r"[\t;,|]|\s+", line.lstrip("# "))
            if position == 0 and any(map(is_path_word, words)) and any(map(is_label_word, words)) and all(words):
                line = line.lstrip("# ")
            elif not any(map(is_there, (line.split("/")[0] + "/", re.split(r"[\t;,|]", line)[0], line.split()[0]))):
                continue
        kept.append((number, line))
    return kept


def _separator(lines: Numbered, suffix: str) -> str | None:
    """Return the separator of the cells; None for spaces."""
    sample = [line for _, line in lines[:_SAMPLE]]
    first = {".csv": ",", ".tsv": "\t", ".tab": "\t"}.get(suffix, "\t")
    order = (first, *(s for s in _SEPARATORS if s != first))
    there = [s for s in order if all(s in line for line in sample)]
    for separator in there:
        rows = [_split(line, separator) for line in sample]
        headed = any(map(is_path_word, rows[0])) and any(map(is_label_word, rows[0]))
        body = rows[1:] or rows
        columns = range(min(map(len, rows)))
        if headed or any(sum(looks_like_image(row[c]) for row in body) * 2 > len(body) for c in columns):
            return separator
    # No cell ends like an image. Go by the ending of the list, or by a tab; other separators may be part of the label.
    if any(first in line for line in sample):
        return first
    return next((s for s in there if not any(" " in line.split(s)[0] for line in sample)), None)


def _split(line: str, separator: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]
    except csv.Error:
        return [cell.strip() for cell in line.split(separator)]


def _separated(lines: Numbered, separator: str, file: epath.Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows; quoted cells may span several lines. If a quote is not closed, read each line for itself."""
    reader = csv.reader((f"{line}\n" for _, line in lines), delimiter=separator, skipinitialspace=True, strict=True)
    rows, start = [], 0
    try:
        for cells in reader:
            rows.append((lines[start][0], [" ".join(cell.split()) if "\n" in cell else cell.strip() for cell in cells]))
            start = reader.line_num
    except csv.Error:
        rows = [(number, _split(line, separator)) for number, line in lines]
    yield from rows


def _by_blanks(lines: Numbered, is_there: Callable[[str], bool]) -> Table:
    """Read `path label` or `label path`; both may contain spaces."""
    lines = [(number, re.split(r"\s#\s", line)[0].rstrip()) for number, line in lines]
    if not lines:
        return Table([], blanks=True)
    words = lines[0][1].split()
    headed = len(words) > 1 and not any(map(looks_like_image, words)) and (
        any(map(is_path_word, words)) and any(map(is_label_word, words)))  # fmt: skip
    if headed and len(words) > 2:
        return Table([(number, line.split()) for number, line in lines])
    body = lines[1:] if headed else lines
    label_first = is_label_word(words[0]) if headed else _label_first([line for _, line in body[:5]], is_there)
    rows = [(number, _cells(line, label_first, is_there)) for number, line in body]
    if all(len(cells) == 2 and " " in cells[1] for _, cells in rows) and split_values("?", (_last(c) for _, c in rows)):
        rows = [(number, [path, label.rsplit(None, 1)[0], label.split()[-1]]) for number, (path, label) in rows]
    return Table([(lines[0][0], words), *rows] if headed else rows, blanks=True)


def _last(cells: list[str]) -> str:
    return cells[-1].split()[-1]


def _label_first(lines: list[str], is_there: Callable[[str], bool]) -> bool:
    """Tell whether in all lines the label comes before the path."""
    if not all((match := _PATH_FIRST.match(line)) and not match[2] and " " in " ".join(line.split()) for line in lines):
        return False
    if any(is_there(line) for line in lines):
        return False
    found = [any(is_there(path) for _, path in _cuts(line)) for line in lines]
    return any(found) or all(re.match(r"\d+\s", line) for line in lines)


def _cuts(line: str) -> Iterator[tuple[str, str]]:
    for blank in re.finditer(r"\s+", line):
        yield line[: blank.start()], line[blank.end() :]


def _cells(line: str, label_first: bool, is_there: Callable[[str], bool]) -> list[str]:
    if label_first:
        cuts = list(_cuts(line))
        return list(next((cut for cut in cuts if len(cuts) > 1 and is_there(cut[1])), cuts[0] if cuts else (line,)))
    match = _PATH_FIRST.match(line)  # Paths and labels may contain spaces.
    cells = match.groups(default="") if match else line.split(None, 1)
    return [cell.strip() for cell in cells if cell.strip()]


def _json_table(file: epath.Path, text: str, *, lines: bool) -> Table:
    """Read one object in each line, or (.json) a list of objects."""
    objects: list[tuple[int, Any]] = []
    number = 1
    try:
        if lines:
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    objects.append((number, json.loads(line)))
        else:
            found = json.loads(text)
            objects = list(enumerate(found, 1)) if isinstance(found, list) else [(1, None)]
    except (ValueError, RecursionError) as error:
        number = number if lines else getattr(error, "lineno", number)
        raise DataError(f"{file}, line {number}: this is not valid JSON ({getattr(error, 'msg', error)}).") from None
    wrong = next((number for number, item in objects if not isinstance(item, dict)), None)
    if wrong is not None:
        where = f"line {wrong}" if lines else f"entry {wrong}"
        raise DataError(f'{file}, {where}: this is not an object such as {{"file_name": "a.jpg", "label": "cat"}}.')
    heading = tuple(dict.fromkeys(name for _, item in objects for name in item))
    return Table([(number, [_as_text(item.get(name)) for name in heading]) for number, item in objects], heading)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
