"""CSV files of predictions: their content for a labelled split, and where they may be written."""

import csv
import io
import os
from collections.abc import Sequence, Set

import numpy as np
from etils import epath

from flax_augtl.errors import UserError
from flax_augtl.runtime.paths import absolute, exists, is_folder, is_remote
from flax_augtl.runtime.text import for_spreadsheet, on_one_line, readable
from flax_augtl.training.evaluation import Evaluation
from flax_augtl.workdir import files

# With up to so many classes, a file has the probability of every class; with more, only those of the likeliest.
MOST_COLUMNS = 20
TOP = 5


def name_of(split: str, step: int | None = None) -> str:
    """Return the name of the file of a split; give `step` if the weights are not the best ones."""
    return files.SPLIT_PREDICTIONS.format(split if step is None else f"{split}_step{step}")


def as_csv(evaluated: Evaluation, class_names: Sequence[str], folder: str | None = None) -> str:
    """Return an evaluation as CSV: path, label, prediction, probability, and the probabilities of other classes.

    With up to 20 classes, there is a column `probability_NAME` for each class. With more, there are `prediction2`,
    `probability2` and so on up to 5. A path or label that a spreadsheet would take for a formula is prefixed by `'`.

    Args:
      evaluated: an evaluation that has probabilities and ids.
      class_names: the names of the classes.
      folder: a folder to put in front of the ids; None for none.
    """
    assert evaluated.probabilities is not None, "write_split checks this"
    every = len(class_names) <= MOST_COLUMNS
    header = ["path", "label", "prediction", "probability"]
    if every:
        header += [f"probability_{readable(name)}" for name in class_names]
    else:
        header += [f"{column}{rank}" for rank in range(2, TOP + 1) for column in ("prediction", "probability")]
    names = [for_spreadsheet(readable(name)) for name in class_names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for name, label, row in zip(evaluated.ids, evaluated.labels, evaluated.probabilities, strict=True):
        path = for_spreadsheet(readable(os.path.join(folder, name) if folder else name))
        order = [np.argmax(row)] if every else np.argsort(-row, kind="stable")[:TOP]
        cells = [cell for index in order for cell in (names[index], f"{row[index]:.6f}")]
        writer.writerow([path, names[label], *cells, *(f"{value:.6f}" for value in row.tolist() if every)])
    return text.getvalue()


def write_split(
    path: epath.Path, evaluated: Evaluation, class_names: Sequence[str], folder: str | None = None
) -> list[str]:
    """Write the predictions of an evaluation, and return lines about it for the log.

    Args:
      path: path of the file.
      evaluated: the evaluation; without probabilities no file is written.
      class_names: see `as_csv`.
      folder: see `as_csv`.

    Raises:
      CannotWrite: the file cannot be written.
    """
    if evaluated.probabilities is None:
        return [
            f"{path} is not written: the probabilities of {len(evaluated.labels)} images and {len(class_names)} classes "
            "are too many to keep."
        ]
    return write(path, as_csv(evaluated, class_names, folder))


def write(path: epath.Path, text: str) -> list[str]:
    """Write a file of predictions; return a line about the predictions of other images that it replaced, if any.

    Raises:
      CannotWrite: the file cannot be written.
    """
    found = replaced(path, set(_paths(text) or ())) if exists(path) else []
    files.write_text(path, text)
    return found


def replaced(path: epath.Path, names: Set[str]) -> list[str]:
    """Return a line about the predictions of other images than `names` in a file that is to be replaced, if any."""
    lost = [name for name in _paths_in(path) or () if name not in names]
    if not lost:
        return []
    return [
        on_one_line(
            f"{path} had predictions of {len(lost)} other image{'s' * (len(lost) != 1)}, such as {lost[0]}. "
            "They have been replaced; --output=FILE writes to another file."
        )
    ]


def output_path(output: str) -> epath.Path:
    """Return the path that --output names.

    Raises:
      UserError: it does not end in .csv, its folder does not exist, or the file exists and holds something else.
    """
    if not output.lower().endswith(".csv"):
        raise UserError(
            f"--output={output} must be the name of a file that ends in .csv: predictions are written as CSV."
        )
    path = absolute(output)
    if is_folder(path):
        raise UserError(f"--output={output} is a folder. Give the name of a file in it.")
    if not is_remote(path) and not is_folder(path.parent):  # In a bucket, the first file creates the folder.
        raise UserError(f"--output={output}: the folder {path.parent} does not exist. Create it.")
    if _paths_in(path) is None:
        raise UserError(f"--output={output} exists and does not hold predictions. Choose another name, or remove it.")
    return path


def _paths_in(path: epath.Path) -> list[str] | None:
    """Return the paths in a file of predictions, [] if there is no such file; None if it holds something else."""
    if not exists(path):
        return []
    if not is_remote(path) and not os.path.isfile(path):  # Reading a named pipe, say, would block.
        return None
    try:
        return _paths(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        return None


def _paths(text: str) -> list[str] | None:
    """Return the first column of a table of predictions; None if the text is not one."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error:
        return None
    if not rows or rows[0][:2] != ["path", "label"] or "probability" not in rows[0][2:4]:
        return None
    return [row[0] for row in rows[1:] if row]
