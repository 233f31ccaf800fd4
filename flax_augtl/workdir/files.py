"""The files of a run: their names, atomic writing, and reading.

If there are several processes, only the first one writes; in the others, the functions that write do nothing.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from flax_augtl.errors import UserError
from flax_augtl.runtime import distributed
from flax_augtl.runtime.paths import is_remote
from flax_augtl.runtime.text import readable

CONFIG = "config.json"
CLASS_NAMES = "class_names.json"
PREPROCESSING = "preprocessing.json"
SOURCE = "source.json"
SPLITS = "splits.json"
SKIPPED = "skipped_pictures.json"
NEAR_COPIES = "near_copies.csv"
METRICS = "metrics.jsonl"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
FROZEN = "frozen"
TENSORBOARD = "tensorboard"
PROFILE = "profile"
PREDICTIONS = "predictions.csv"
SPLIT_PREDICTIONS = "predictions_{}.csv"
STUDY = "study.csv"
REPORT = "report.html"
CALIBRATION = "calibration.json"
FAMILIARITY = "familiarity.npz"
FEATURES = "features"
FEATURES_DECISION = "features.json"
_OURS = (
    CONFIG,
    CLASS_NAMES,
    PREPROCESSING,
    SOURCE,
    SPLITS,
    SKIPPED,
    NEAR_COPIES,
    METRICS,
    RESULT,
    CHECKPOINTS,
    FROZEN,
    TENSORBOARD,
    PROFILE,
    PREDICTIONS,
    f"{PREDICTIONS}.partial",
    f"{PREDICTIONS}.partial.json",
    REPORT,
    CALIBRATION,
    FAMILIARITY,
    FEATURES,
    FEATURES_DECISION,
    *map(SPLIT_PREDICTIONS.format, ("train", "val", "test", "all")),
)


class CannotWrite(UserError):
    """A file cannot be written: the disk is full, missing or read-only."""


def write_text(path: epath.PathLike, text: str) -> None:
    r"""Write a text file in UTF-8 with `write_bytes`; characters that UTF-8 lacks are escaped, such as `\udce9`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: epath.PathLike, content: bytes) -> None:
    """Write a file atomically: readers see the old file or the new one, never a part.

    Raises:
      CannotWrite: the file cannot be written.
    """
    if not distributed.is_first():
        return
    path = epath.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            # Do not follow a link of that name.
            temporary.unlink(missing_ok=True)
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: epath.PathLike, error: OSError) -> CannotWrite:
    """Return the error for a file that cannot be written."""
    return CannotWrite(f"{os.fspath(path)} cannot be written: {error.strerror or error}.")


def write_json(path: epath.PathLike, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _runs_below(folder: epath.Path) -> str:
    """Return a sentence about the runs in a folder, such as the variants, or the best run of a study."""
    if not folder.is_dir():
        return " There is no such folder."
    found = sorted(path.name for path in folder.iterdir() if (path / CLASS_NAMES).exists())
    return f" There are runs in it: {', '.join(str(folder / name) for name in found[:5])}." if found else ""


def read_json(path: epath.PathLike) -> Any:
    """Read a JSON file.

    Raises:
      UserError: it does not exist, cannot be read, or is not JSON.
    """
    path = epath.Path(path)
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        below = _runs_below(path.parent)
        raise UserError(f"{path.parent} is not a run directory: it has no {path.name}.{below}") from error
    except (ValueError, RecursionError) as error:  # ValueError also for bytes that are not UTF-8, and huge integers.
        raise UserError(f"{path} is not valid JSON: {error}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def prepare(workdir: epath.PathLike) -> epath.Path:
    """Create the run directory if it does not exist, and check that it can be written.

    Raises:
      CannotWrite: it cannot be written.
    """
    workdir = epath.Path(workdir)
    if "\\" in os.fspath(workdir):
        raise CannotWrite(
            f"--workdir={workdir} cannot be used: TensorStore, which writes the checkpoints, reads a "
            "backslash as the end of a folder's name. Choose a directory without one in its path."
        )
    if readable(os.fspath(workdir)) != os.fspath(workdir):
        # TensorStore, which writes the checkpoints, needs UTF-8 names.
        raise CannotWrite(f"--workdir={readable(os.fspath(workdir))} has a name that is not UTF-8. Choose another.")
    if not distributed.is_first():
        return workdir
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not is_remote(workdir):
            with tempfile.TemporaryFile(dir=os.fspath(workdir)):
                pass
    except OSError as error:
        raise CannotWrite(f"--workdir={workdir} cannot be written: {error.strerror or error}.") from error
    return workdir


def clear_leftovers(workdir: epath.PathLike) -> None:
    """Remove the temporary files of a program that was killed while it wrote; only the holder of the lock may."""
    # Do not use glob: the directory's own name may be a pattern.
    workdir = epath.Path(workdir)
    # In a bucket, a folder without files does not exist.
    for path in list(workdir.iterdir()) if workdir.exists() else ():
        if path.name.startswith(".") and path.name.endswith(".tmp"):
            path.unlink(missing_ok=True)


def check_links(workdir: epath.PathLike, names: Sequence[str] = _OURS) -> None:
    """Check that no file of a run is a link out of its directory; the directory itself may be a link.

    A stranger's run directory could otherwise make this program read or write any file of its user.

    Args:
      workdir: the run directory.
      names: the files and folders to check; those below checkpoints/, frozen/ and tensorboard/ are checked too.

    Raises:
      UserError: one of them is a symbolic link out of the directory, or neither a file nor a folder.
    """
    if "://" in os.fspath(workdir):
        return
    inside = os.path.realpath(workdir)
    places = [os.path.join(workdir, name) for name in names]
    for folder in (CHECKPOINTS, FROZEN, TENSORBOARD):
        for where, folders, files in os.walk(os.path.join(workdir, folder)):
            places += [os.path.join(where, name) for name in (*folders, *files)]
    for place in places:
        if os.path.islink(place):
            target = os.path.realpath(place)
            if os.path.commonpath([inside, target]) != inside:
                raise UserError(
                    f"{place} is a link to {target}, outside of the run directory, and is neither read nor "
                    "written. Replace it by the file that it points to, or link the whole directory."
                )
        # Reading a named pipe, say, would block.
        if os.path.exists(place) and not (os.path.isfile(place) or os.path.isdir(place)):
            raise UserError(f"{place} is neither a file nor a folder. Remove it.")
    for name, place in zip(names, places, strict=False):
        # In `names`, files have an extension and folders have none.
        if os.path.exists(place) and os.path.isdir(place) == bool(os.path.splitext(name)[1]):
            raise UserError(
                f"{place} is {'a folder, not a file' if os.path.isdir(place) else 'a file, not a folder'}. Remove it."
            )


def append_metrics(workdir: epath.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to metrics.jsonl, one JSON object per line.

    Raises:
      CannotWrite: the file cannot be written.
    """
    if not distributed.is_first():
        return
    path = epath.Path(workdir) / METRICS
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if is_remote(path):
        # Buckets cannot append to a file.
        write_text(path, (path.read_text() if path.exists() else "") + text)
        return
    try:
        with path.open("a") as file:
            file.write(text)
    except OSError as error:
        raise cannot_write(path, error) from error


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl; [] if there is no such file."""
    path = epath.Path(workdir) / METRICS
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # The run was killed while it wrote this line.
        if isinstance(row, Mapping) and isinstance(row.get("step"), int) and isinstance(row.get("split"), str):
            rows.append(dict(row))
    return rows


def drop_metrics_after(workdir: epath.PathLike, step: int, *, evaluation_due: bool = False) -> None:
    """Remove the rows that a run resumed from `step` writes again: those of later steps and of the test split.

    Args:
      workdir: the run directory.
      step: step of the checkpoint.
      evaluation_due: whether the evaluation after `step` is written again as well.
    """
    path = epath.Path(workdir) / METRICS
    if path.exists():
        kept = [
            row
            for row in read_metrics(workdir)
            if row["step"] <= step
            and row["split"] != "test"
            and not (evaluation_due and row["step"] == step and row["split"] == "val")
        ]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def differences(old: Any, new: Any, prefix: str = "config") -> list[str]:
    """Return a sentence for every field in which two trees of JSON values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for name in sorted({*old, *new}):
            path = f"{prefix}.{name}"
            if name not in old or name not in new:
                there, here = (repr(values[name]) if name in values else "absent" for values in (old, new))
                found.append(f"{path}: {there} there, {here} here")
            else:
                found += differences(old[name], new[name], path)
        return found
    return [] if old == new else [f"{prefix}: {old!r} there, {new!r} here"]
