"""The rows of predictions as CSV and as a table for the terminal.

A row is a dict: the `path` of an image; up to five `labels`, the likeliest first, and their `probabilities`; `extra`, more
cells by column; and `reason`, which says why the image cannot be read, and is empty otherwise.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flax_augtl.runtime.text import columns, for_spreadsheet, on_one_line, readable

Row = dict[str, Any]


def header(width: int, extras: Sequence[str]) -> list[str]:
    """Return the names of the columns for `width` labels of an image and the columns of the extras."""
    ranks = [str(rank) if rank > 1 else "" for rank in range(1, width + 1)]
    return ["path", *(f"{name}{rank}" for rank in ranks for name in ("label", "probability")), *extras, "reason"]


def cells(row: Mapping[str, Any], width: int, extras: Sequence[str]) -> list[str]:
    """Return the cells of a row.

    A path, label or reason that a spreadsheet would take for a formula is prefixed by `'`.
    """
    found = []
    for label, probability in zip(row["labels"], row["probabilities"], strict=True):
        found += [for_spreadsheet(label), f"{probability:.6f}"]
    found += [""] * (2 * width - len(found))
    found += [for_spreadsheet(readable(row.get("extra", {}).get(name, ""))) for name in extras]
    return [for_spreadsheet(readable(row["path"])), *found, for_spreadsheet(readable(row.get("reason", "")))]


def as_lines(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of cells as lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV: path, label, probability, then label2, probability2 and so on, extras, and the reason last."""
    width = max((1, *(len(row["labels"]) for row in rows)))
    extras = list(dict.fromkeys(name for row in rows for name in row.get("extra", ())))
    return as_lines([header(width, extras), *(cells(row, width, extras) for row in rows)])


def read(lines: Iterable[str], paths: Iterable[str], width: int, extras: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of the images `paths` again from the lines that `as_lines` made of their cells, without the header.

    The labels are as the file has them: one that begins like a formula has its `'`.
    """
    for path, row in zip(paths, csv.reader(lines), strict=False):
        shown = [place for place in range(1, 2 * width + 1, 2) if row[place + 1]]
        yield {
            "path": path,
            "labels": [row[place] for place in shown],
            "probabilities": [float(row[place + 1]) for place in shown],
            "extra": dict(zip(extras, row[2 * width + 1 : -1], strict=True)) if not row[-1] else {},
            "reason": row[-1],
        }


def as_table(rows: Sequence[Mapping[str, Any]], limit: int = 40, total: int | None = None) -> str:
    """Return the first rows as aligned text.

    Args:
      rows: the rows, or the first of them.
      limit: the most rows that are shown.
      total: number of all rows; None if `rows` has all.
    """
    shown = [
        (
            _shortened(on_one_line(row["path"])),
            _mark(row)
            + "  ".join(
                f"{on_one_line(label)} {probability:.1%}"
                for label, probability in zip(row["labels"], row["probabilities"], strict=True)
            ),
        )
        for row in rows[:limit]
    ]
    more = (len(rows) if total is None else total) - len(shown)
    return "\n".join([*([columns(shown)] if shown else []), *([f"… and {more} more"] if more > 0 else [])])


def _shortened(path: str, most: int = 60) -> str:
    return path if len(path) <= most else "…" + path[1 - most :]


def _mark(row: Mapping[str, Any]) -> str:
    """Return what stands before the classes of an image that is probably of none of them."""
    extra = row.get("extra", {})
    return f"UNKNOWN? (familiarity {extra['familiarity']})  " if extra.get("unknown") == "yes" else ""
