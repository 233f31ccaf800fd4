"""Find the columns of a list: path, label and split. If they are ambiguous, the error says how to choose."""

import dataclasses
from collections.abc import Callable, Collection

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.sources.list_tables import Table
from flax_augtl.data.sources.list_words import (
    compact,
    is_id_word,
    is_label_word,
    is_missing,
    is_path_word,
    looks_like_image,
    split_values,
)

_TRIED = 5  # Number of rows whose files are looked up if the headings do not tell.
_SETTLE = "config.data.path_column and config.data.label_column"


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a list.

    Attributes:
      line: its number in the file.
      path: the path as written.
      label: the label as written; "" in a list without labels.
      split: "train", "val" or "test" if the list has a column for it, else "".
      further: {heading: cell} for the other columns of a list with a heading.
    """

    line: int
    path: str
    label: str
    split: str
    further: dict[str, str]


def rows_of(
    table: Table, file: str, data: DataConfig, is_there: Callable[[str], bool], names: Collection[str] = ()
) -> list[Row]:
    """Return the rows of a list.

    Args:
      table: the content of the list.
      file: what messages call the list.
      data: config.data. Its `path_column`, `label_column` and `split_column` choose columns by heading or number from
        1. If the label column is "", the folder is the label; if the split column is "", there is no split.
      is_there: tells whether a path, as a list writes it, is that of a file.
      names: the names of the classes, if they are known, because a class may be called "none".

    Raises:
      DataError: the columns are ambiguous, a heading is unknown, lines have different lengths, a path or label is
        empty, or a split is unknown.
    """
    rows = [row for row in table.rows if any(row[1])]
    asked = {name for name in (data.path_column, data.label_column, data.split_column) if name}
    heading = table.heading or _heading(rows, is_there, asked)
    if heading and not table.heading:
        rows = rows[1:]
    if not rows:
        raise DataError(f"The list file {file} has no images in it.")
    width = len(heading) if heading else max(len(cells) for _, cells in rows)
    least = 1 if table.blanks or heading or width == 2 else width
    rows = [(line, _filled(cells, least, width, line, file)) for line, cells in rows]
    columns = _Columns(file, heading, rows, width, data, is_there)
    path = columns.path()
    label = columns.label(path)
    splits = columns.splits(path, label)
    found = []
    for line, cells in rows:
        if not cells[path]:
            raise DataError(f"{file}, line {line}: there is no path in “{' '.join(cells).strip()}”.")
        if label is not None and is_missing(cells[label]) and cells[label] not in names:
            raise DataError(_no_label(file, line, cells[label], cells[path]))
        if label is not None and not table.blanks and cells[label][:1] in ("[", "{") and table.heading:
            raise DataError(f"{file}, line {line}: the label {cells[label]} is several values; an image has one class.")
        split = "" if splits is None else splits[1].get(cells[splits[0]].strip().lower(), "")
        if splits is not None and not split:
            raise DataError(
                f"{file}, line {line}: the split “{cells[splits[0]]}” is unknown. A split column has the values "
                "train, val and test. To use another column, set config.data.split_column=NAME; to use none, "
                'set config.data.split_column="".'
            )
        further = {name: cells[c] for c, name in enumerate(heading or ()) if c not in (path, label) and name}
        found.append(Row(line, cells[path], cells[label] if label is not None else "", split, further))
    return found


def _no_label(file: str, line: int, cell: str, path: str) -> str:
    if not cell:
        return f"{file}, line {line}: “{path}” has no label, where other lines have one. Add it, or remove the line."
    return (
        f"{file}, line {line}: the label of “{path}” is “{cell}”, which stands for a missing value. Write the label, "
        "or remove the line. If it is the name of a class, give the names of all classes in config.data.class_list."
    )


def _filled(cells: list[str], least: int, width: int, line: int, file: str) -> list[str]:
    while len(cells) > width and not cells[-1]:
        cells = cells[:-1]
    if not least <= len(cells) <= width:
        raise DataError(
            f"{file}, line {line} has {len(cells)} columns, where others have {width}. Put a path or label that holds "
            "the separator in double quotes."
        )
    return cells + [""] * (width - len(cells))


def _heading(
    rows: list[tuple[int, list[str]]], is_there: Callable[[str], bool], asked: set[str]
) -> tuple[str, ...] | None:
    """Return the first row if it is a heading, with known or unknown words."""
    if not rows or any(looks_like_image(cell) for cell in rows[0][1]):
        return None
    first = rows[0][1]
    paths, labels = [is_path_word(cell) or is_id_word(cell) for cell in first], [is_label_word(cell) for cell in first]
    named = any(paths) and any(labels)
    if len(first) == 1:
        named = paths[0] and not is_there(first[0])
    elif paths[0] or labels[0] or any(cell in asked and not cell.isdecimal() for cell in first):
        named = True
    body = [cells for _, cells in rows[1:]]
    endings = body and any(
        all(len(cells) > c and looks_like_image(cells[c]) for cells in body) for c in range(len(first))
    )  # fmt: skip
    if not named and endings:
        named = not any(is_there(cell) for cell in first if cell)
    if not named and body and not any(looks_like_image(cell) for cells in body for cell in cells):
        # Names without endings: the files of the images exist, but none with the name of the column.
        there = [c for c, cell in enumerate(body[0]) if cell and is_there(cell)]
        named = bool(there) and not any(c < len(first) and is_there(first[c]) for c in there)
    return tuple(first) if named else None


class _Columns:
    """Chooses the columns of a list; see `rows_of`."""

    def __init__(
        self,
        file: str,
        heading: tuple[str, ...] | None,
        rows: list[tuple[int, list[str]]],
        width: int,
        data: DataConfig,
        is_there: Callable[[str], bool],
    ):
        self.file, self.heading, self.width, self.data, self.is_there = file, heading, width, data, is_there
        self.cells = [cells for _, cells in rows]
        for field in ("path_column", "label_column", "split_column"):
            self._asked(field)  # Report a wrong name before anything else.

    def path(self) -> int:
        if (asked := self._asked("path_column")) is not None:
            return asked
        images = [c for c in range(self.width) if all(looks_like_image(cells[c]) for cells in self.cells)]
        if self.heading:
            for is_word in (is_path_word, is_id_word):
                named = [c for c in range(self.width) if is_word(self.heading[c])]
                if named:
                    return self._only_path(named, images)
            if len(images) == 1 and (self.width == 1 or any(map(is_label_word, self.heading))):
                return images[0]
            raise self._unknown("path", images)
        if len(images) > 1:
            return self._only_path(images, images)
        if images or self.width == 1:
            return (images or [0])[0]
        counts = [sum(looks_like_image(cells[c]) for cells in self.cells) for c in range(self.width)]
        often = [c for c, count in enumerate(counts) if count * 2 > len(self.cells)]
        there = [c for c in range(self.width) if self._there(c)]
        return (often or there or [0])[0]

    def label(self, path: int) -> int | None:
        """Return the column of labels; None if the folders are the labels."""
        if self.data.label_column == "":
            return None
        if (asked := self._asked("label_column")) is not None:
            return asked
        if self.width == 1:
            return None
        if self.heading:
            named = [c for c in range(self.width) if c != path and is_label_word(self.heading[c])]
            if named:
                return self._only_label(named)
            aside = [c for c in range(self.width) if c != path and not self._is_aside(c)]
            if not aside:
                return None
            raise self._unknown("label", [path])
        others = [c for c in range(self.width) if c != path and not self._counts(c, path)]
        if len(others) > 1:
            others = [c for c in others if split_values("", self._values(c)) is None] or others
        if len(others) > 1:
            raise DataError(
                f"{self.file} has {self.width} columns and no heading: which is the label? The first line is "
                f"{self._line(0)}. Set config.data.label_column to its number ({listed(c + 1 for c in others)})."
            )
        return others[0] if others else None

    def splits(self, path: int, label: int | None) -> tuple[int, dict[str, str]] | None:
        """Return (the column of splits, {its value: split}); None if there is none."""
        if self.data.split_column == "":
            return None
        asked = self._asked("split_column")
        if asked is None and not self.heading and self.width < 3:
            return None
        candidates = [c for c in range(self.width) if c not in (path, label)] if asked is None else [asked]
        found = []
        for c in candidates:
            word = self.heading[c] if self.heading else ""
            values = split_values(word, self._values(c), asked=asked is not None)
            if values is not None:
                found.append((c, values))
        if len(found) > 1:
            raise DataError(
                f"{self.file}: the columns {listed(self._name(c) for c, _ in found)} may all be the split. Choose one "
                "with config.data.split_column."
            )
        return found[0] if found else None

    def _asked(self, field: str) -> int | None:
        """Return the column that the user chose by heading or number from 1; None if there is no choice."""
        name = getattr(self.data, field)
        if name is None or (name == "" and field != "path_column"):
            return None
        if self.heading and name in self.heading:
            return self.heading.index(name)
        same = [c for c, word in enumerate(self.heading or ()) if compact(word) == compact(name)]
        if len(same) == 1:
            return same[0]
        if name.isdecimal() and 1 <= int(name) <= self.width:
            return int(name) - 1
        what = f"the columns {listed(self.heading, 30)}" if self.heading else f"{self.width} columns and no heading"
        raise DataError(f"config.data.{field}={name} is not a column of {self.file}, which has {what}.")

    def _values(self, c: int) -> set[str]:
        return {cells[c] for cells in self.cells}

    def _there(self, c: int) -> bool:
        return any(cells[c] and self.is_there(cells[c]) for cells in self.cells[:_TRIED])

    def _only_path(self, named: list[int], images: list[int]) -> int:
        """Return the only column whose files exist, or whose cells all end like image files."""
        if len(named) == 1:
            return named[0]
        for some in ([c for c in named if self._there(c)], [c for c in named if c in images]):
            if len(some) == 1:
                return some[0]
        raise DataError(
            f"{self.file}: which column is the path? It may be {listed(self._name(c) for c in named)}; the first line "
            f"is {self._line(0)}. Choose one with config.data.path_column."
        )

    def _only_label(self, named: list[int]) -> int:
        """Return the only column of labels; of several with the same content, the one with names."""
        if len(named) == 1:
            return named[0]
        pairs = [{(cells[named[0]], cells[c]) for cells in self.cells} for c in named]
        same = all(
            len(p) == len(self._values(named[0])) == len(self._values(c)) for p, c in zip(pairs, named, strict=True)
        )
        if same:
            return next((c for c in named if not all(value.isdecimal() for value in self._values(c))), named[0])
        raise DataError(
            f"{self.file}: which column is the label? It may be {listed(self._name(c) for c in named)}; the first "
            f"line is {self._line(0)}. Choose one with config.data.label_column."
        )

    def _is_aside(self, c: int) -> bool:
        """Tell whether a column cannot be the label: a split, an id, a path or a line number."""
        word = self.heading[c] if self.heading else ""
        return (
            split_values(word, self._values(c)) is not None or is_id_word(word) or is_path_word(word) or self._counts(c)
        )

    def _counts(self, c: int, path: int | None = None) -> bool:
        """Tell whether a column is the first and has line numbers, as data frames write them."""
        if c != 0 or len(self.cells) < 3 or (path == 0):
            return False
        values = [cells[c] for cells in self.cells]
        return any(values == [str(i) for i in range(start, start + len(values))] for start in (0, 1))

    def _name(self, c: int) -> str:
        return self.heading[c] if self.heading and self.heading[c] else f"number {c + 1}"

    def _line(self, row: int) -> str:
        if not self.heading:
            return "“" + ", ".join(self.cells[row]) + "”"
        return "“" + ", ".join(f"{self._name(c)}: {cell}" for c, cell in enumerate(self.cells[row])) + "”"

    def _unknown(self, what: str, paths: list[int]) -> DataError:
        guess = [c for c in range(self.width) if c not in paths]
        advice = f"Set {_SETTLE} to the columns that hold them"
        if what == "path" and len(paths) == 1 and len(guess) == 1:
            path, label = self._name(paths[0]), self._name(guess[0])
            advice = (
                f"If that is what they are, set config.data.path_column={path} and config.data.label_column={label}"
            )
        elif what == "label":
            advice = (
                'Set config.data.label_column to the one that holds the labels, or to "" if the folders are the labels'
            )
        return DataError(
            f"{self.file}: the heading has the columns {listed(self._name(c) for c in range(self.width))}; one must be "
            f"called path and one label, or by another word for them. {advice}. The first line is {self._line(0)}."
        )
