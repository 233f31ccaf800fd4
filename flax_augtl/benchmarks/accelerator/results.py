"""Results on disk: a JSON line for each row as it comes, and the same as Markdown."""

import contextlib
import json
import math
import os
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flax_augtl.benchmarks.accelerator.parts import PARTS

LINES, TABLE = "results.jsonl", "results.md"
# Keys that are not columns: texts that stand below the tables.
TEXTS = ("error", "text")


class Results:
    """The results of one part.

    Attributes:
      folder: of the files.
      part: letter of the part.
      failures: how many cases have failed.
    """

    def __init__(self, folder: os.PathLike | str, part: str):
        self.folder, self.part, self.failures = Path(folder), part, 0

    def row(self, case: str, **values: Any) -> None:
        """Add a row, print it, and bring the Markdown up to date."""
        line = json.dumps({"part": self.part, "case": case, **values}, default=_plain, allow_nan=False)
        with open(self.folder / LINES, "a") as file:
            file.write(line + "\n")
        print(line, flush=True)
        write_table(self.folder)

    def failed(self, case: str, error: BaseException | str) -> None:
        """Add a row for a case that failed, with its traceback."""
        self.failures += 1
        text = error if isinstance(error, str) else "".join(traceback.format_exception(error))
        self.row(case, status="failed", error=text.strip())

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Turn an exception within into a row, and go on."""
        try:
            yield
        except Exception as error:
            self.failed(name, error)


def read(folder: os.PathLike | str) -> list[dict[str, Any]]:
    """Return all rows of a folder; none where it has none."""
    path = Path(folder) / LINES
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_table(folder: os.PathLike | str) -> None:
    """Write the rows of a folder as Markdown: a table for each run of rows with the same columns."""
    lines = []
    rows = read(folder)
    for part in PARTS:
        own = [row for row in rows if row["part"] == part.letter]
        if own:
            lines += [f"## {part.letter}. {part.title}", "", *_tables(own)]
    partial = Path(folder) / f".{TABLE}.{os.getpid()}"
    partial.write_text("\n".join(lines))
    os.replace(partial, Path(folder) / TABLE)


def _tables(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    columns: tuple[str, ...] = ()
    texts = []
    for row in rows:
        values = {name: value for name, value in row.items() if name not in ("part", *TEXTS)}
        texts += [(row["case"], str(row[name]), name) for name in TEXTS if row.get(name)]
        if tuple(values) != columns:
            if columns:
                yield ""
            columns = tuple(values)
            yield f"| {' | '.join(name.replace('_', ' ') for name in columns)} |"
            yield "|" + "---|" * len(columns)
        yield f"| {' | '.join(_shown(value) for value in values.values())} |"
    yield ""
    for case, text, kind in texts:
        # A text is Markdown already; a traceback is not.
        fenced = ["```", *text.splitlines(), "```"] if kind == "error" else [text]
        yield from (f"{case}:", "", *fenced, "")


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        digits = 0 if abs(value) >= 1000 else 3 - (0 if value == 0 else max(0, math.floor(math.log10(abs(value))) + 1))
        return f"{value:.2e}" if 0 < abs(value) < 0.001 else f"{value:,.{max(0, digits)}f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _plain(value: Any) -> Any:
    """Return a numpy or JAX scalar as a Python number."""
    return value.item() if hasattr(value, "item") else str(value)
