"""All runs below a folder side by side: the fields in which their configurations differ, and their metrics."""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath
from flax import traverse_util

from flax_augtl import paired_runs
from flax_augtl.errors import UserError
from flax_augtl.runtime.markup import document, element, join, paragraph, table
from flax_augtl.runtime.paths import absolute, is_remote
from flax_augtl.runtime.text import columns, for_spreadsheet, for_terminal, on_one_line
from flax_augtl.workdir import files
from flax_augtl.workdir.description import read_result

CSV, HTML = "compare.csv", "compare.html"
# Metrics in result.json, in the order of the columns.
_FIGURES = ("top1", "mean_per_class", "loss")
# Fields about places, speed and logs: runs that differ in them only are the same.
_PLACES = (
    "name",
    "data.threads",
    "data.workers",
    "data.cache",
    "data.cache_gb",
    "data.cache_dir",
    "data.scan_dir",
    "check_replicas_every",
    "log_every_steps",
    "keep_checkpoints",
    "report",
)


class RunRow(NamedTuple):
    """One run of a comparison.

    Attributes:
      name: its directory, relative to the folder.
      config: its configuration, {dotted field: value}.
      result: the contents of result.json; None if the run is not finished.
      test_ids: the ids of its test examples; None if they are not known.
      tested: its predictions for the test images; None if they are not known.
    """

    name: str
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None
    test_ids: frozenset[str] | None
    tested: paired_runs.Tested | None = None


class Comparison(NamedTuple):
    """The runs below a folder.

    Attributes:
      header: the names of the columns.
      rows: a row of texts per run, the best by validation first.
      notes: sentences that explain the table.
    """

    header: list[str]
    rows: list[list[str]]
    notes: list[str]


def find_runs(folder: os.PathLike | str) -> list[RunRow]:
    """Read every run directory below a folder, and the folder itself if it is one.

    Raises:
      UserError: there is no run, or the folder is remote or missing.
    """
    folder = absolute(folder)
    if is_remote(folder):
        raise UserError(f"--workdir={folder}: runs are compared in a folder of this machine. Copy them here first.")
    if not folder.is_dir():
        raise UserError(f"--workdir={folder}: there is no such folder.")
    found = [_read(Path(folder), path) for path in _run_directories(Path(folder))]
    if not found:
        raise UserError(
            f"--workdir={folder}: there is no run in it or below it. A run is a directory with "
            f"{files.CONFIG} and {files.CLASS_NAMES}."
        )
    return found


def compare(runs: Sequence[RunRow]) -> Comparison:
    """Return a table of runs: the fields that differ, validation and test metrics, paired tests, and time."""
    fields = _differing(runs)
    metric = "mean_per_class" if any((run.result or {}).get("metric") == "mean_per_class" for run in runs) else "top1"
    ordered = sorted(runs, key=lambda run: (-_figure(run, "val", metric, -1.0), run.name))
    finished = {run.name: run.tested for run in ordered if run.result is not None}
    best = ordered[0].name if _figure(ordered[0], "val", metric) is not None else None
    found = paired_runs.paired(finished, best, metric)
    paired = _paired_columns(found, metric)
    header = [
        "run",
        *fields,
        *(f"val {name}" for name in _FIGURES),
        *(f"test {name}" for name in _FIGURES),
        "test examples",
        *paired,
        "best step",
        "seconds",
    ]
    rows = [
        [
            on_one_line(run.name),
            *(_shown(run.config.get(field, "–")) for field in fields),
            *(_number(_figure(run, split, name)) for split in ("val", "test") for name in _FIGURES),
            _shown(_figure(run, "test", "n", "–")),
            *(column.get(run.name, "–") for column in paired.values()),
            _shown((run.result or {}).get("best_step", "–")),
            _number((run.result or {}).get("seconds"), 1),
        ]
        for run in ordered
    ]
    told = paired_runs.notes(finished, found, best if len(ordered) > 1 else None, metric)
    return Comparison(header, rows, [*_notes(ordered, metric), *told])


def write(folder: os.PathLike | str, comparison: Comparison) -> list[epath.Path]:
    """Write compare.csv and compare.html into a folder, and return their paths."""
    folder = absolute(folder)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(comparison.header)
    writer.writerows([for_spreadsheet("" if cell == "–" else cell) for cell in row] for row in comparison.rows)
    body = join(
        element("h1", f"Runs below {os.path.basename(os.fspath(folder))}"),
        *(paragraph(note) for note in comparison.notes),
        table(comparison.header, comparison.rows),
    )
    files.write_text(folder / CSV, text.getvalue())
    files.write_text(folder / HTML, document("Runs side by side", body))
    return [folder / CSV, folder / HTML]


def as_text(comparison: Comparison) -> str:
    """Return a comparison as text for a terminal."""
    return for_terminal(
        columns([comparison.header, *comparison.rows]) + "".join(f"\n{note}" for note in comparison.notes)
    )


def _run_directories(folder: Path) -> Iterator[Path]:
    """Yield every run directory, in order, without looking inside of one."""
    if (folder / files.CONFIG).is_file() and (folder / files.CLASS_NAMES).is_file():
        yield folder
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from _run_directories(path)


def _read(folder: Path, path: Path) -> RunRow:
    files.check_links(path)
    config = files.read_json(path / files.CONFIG)
    if not isinstance(config, Mapping):
        raise UserError(f"{path / files.CONFIG} is not the configuration of a run.")
    flat = {
        ".".join(field): value
        for field, value in traverse_util.flatten_dict(dict(config)).items()
        if field[0] not in ("study", "variants")
    }
    splits = files.read_json(path / files.SPLITS) if (path / files.SPLITS).exists() else {}
    ids = splits.get("test") if isinstance(splits, Mapping) else None
    known = frozenset(ids) if isinstance(ids, list) and all(isinstance(each, str) for each in ids) else None
    return RunRow(os.path.relpath(path, folder), flat, read_result(path), known, paired_runs.read_tested(path))


def _differing(runs: Sequence[RunRow]) -> list[str]:
    """Return the fields in which the runs differ, in the order of the first configuration."""
    fields = dict.fromkeys(field for run in runs for field in run.config)
    return [
        field for field in fields if field not in _PLACES and len({repr(run.config.get(field)) for run in runs}) > 1
    ]


def _figure(run: RunRow, split: str, name: str, absent: Any = None) -> Any:
    figures = (run.result or {}).get(split)
    value = figures.get(name) if isinstance(figures, Mapping) else None
    return value if isinstance(value, int | float) else absent


def _paired_columns(found: Mapping[str, paired_runs.Paired], metric: str) -> dict[str, dict[str, str]]:
    """Return the columns of intervals and paired tests, {header: {run: text}}; none if nothing is known."""
    columns = {f"test {metric} 95 %": {name: f"[{one.low:.4f}, {one.high:.4f}]" for name, one in found.items()}}
    p = {name: one.p for name, one in found.items() if one.p is not None}
    adjusted = {name: one.adjusted for name, one in found.items() if one.adjusted is not None}
    if p:
        columns["minus best"] = {name: f"{found[name].difference:+.4f}" for name in p}
        columns["p"] = {name: paired_runs.shown(value) for name, value in p.items()}
    if len(p) > 1:
        columns["Holm"] = {name: paired_runs.shown(value) for name, value in adjusted.items()}
    return columns if found else {}


def _notes(runs: Sequence[RunRow], metric: str) -> list[str]:
    name = paired_runs.NAMES[metric]
    best = _figure(runs[0], "val", metric)
    tied = [run.name for run in runs if _figure(run, "val", metric) == best]
    notes = []
    if best is not None:
        notes.append(
            f"The first run is the best by validation ({name})."
            if len(tied) == 1
            else f"Best by validation ({name}): a tie of {len(tied)} runs, {on_one_line(', '.join(tied))}."
        )
    if any(_figure(run, "val", metric) is None for run in runs):
        notes.append(
            "Runs without validation results come last: choose between runs by validation, not by the test split."
        )
    if len({run.test_ids for run in runs}) > 1:
        notes.append("The runs were tested on different examples, so their test results cannot be compared.")
    if unfinished := [run.name for run in runs if run.result is None]:
        notes.append(f"Not finished: {', '.join(unfinished)}.")
    return notes


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "(" + ", ".join(map(str, value)) + ")"
    return "–" if value is None else on_one_line(str(value))


def _number(value: Any, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
