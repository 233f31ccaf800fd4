"""Runs that were tested on the same images: an interval over the images for each, and a paired test against the best."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from flax_augtl.runtime.text import on_one_line
from flax_augtl.training import prediction_files
from flax_augtl.training.intervals import image_interval, paired_p

NAMES = {"top1": "top-1", "mean_per_class": "mean per class"}
TESTS = {"top1": "exact McNemar test", "mean_per_class": "paired sign-flip test"}


class Tested(NamedTuple):
    """A run's predictions for its test images.

    Attributes:
      label: {path: label}.
      right: the paths of the correctly predicted images.
    """

    label: Mapping[str, str]
    right: frozenset[str]


class Paired(NamedTuple):
    """A run on its test images, and compared with the best run on the same images.

    Attributes:
      value: the run's accuracy.
      low: lower end of the 95 % bootstrap interval over the test images.
      high: upper end of that interval.
      images: number of test images.
      difference: the run's accuracy minus that of the best run; None for the best run, and if the test images differ.
      p: p of the paired test of that difference.
      adjusted: that p, corrected by Holm's method for the number of runs compared with the best.
    """

    value: float
    low: float
    high: float
    images: int
    difference: float | None = None
    p: float | None = None
    adjusted: float | None = None


def read_tested(*workdirs: os.PathLike | str) -> Tested | None:
    """Read predictions_test.csv of a run, or of the runs of all folds; None if one is missing or cannot be used."""
    label: dict[str, str] = {}
    right: set[str] = set()
    for workdir in workdirs:
        rows = _rows(epath.Path(workdir) / prediction_files.name_of("test"))
        if not rows or any(path in label for path in rows):
            return None
        label |= {path: truth for path, (truth, _) in rows.items()}
        right |= {path for path, (truth, said) in rows.items() if truth == said}
    return Tested(label, frozenset(right)) if label else None


def paired(tested: Mapping[str, Tested | None], best: str | None, metric: str) -> dict[str, Paired]:
    """Return the interval of each run whose predictions are known, and its paired test against the best run.

    Args:
      tested: the predictions of each run, by name.
      best: the run to compare with; None for no comparison.
      metric: `top1`, or `mean_per_class`, in which all classes have the same weight.
    """
    from flax_augtl.training.statistics import holm  # Slow to import.

    known = {name: one for name, one in tested.items() if one is not None}
    found = {name: _alone(one, metric) for name, one in known.items()}
    reference = tested.get(best) if best is not None else None
    if reference is None:
        return found
    others = [name for name, one in known.items() if name != best and one.label == reference.label]
    compared = [_against(known[name], reference, metric) for name in others]
    for name, (difference, p), adjusted in zip(others, compared, holm([p for _, p in compared]), strict=True):
        found[name] = found[name]._replace(difference=difference, p=p, adjusted=adjusted)
    return found


def notes(tested: Mapping[str, Tested | None], found: Mapping[str, Paired], best: str | None, metric: str) -> list[str]:
    """Return sentences about what the intervals and tests mean, and why some are missing."""
    said: list[str] = []
    if found:
        said.append("Intervals: 95 % bootstrap over the test images of a run.")
    compared = [one for one in found.values() if one.p is not None]
    if compared and best is not None:
        holm = "; Holm: p corrected for the number of comparisons" if len(compared) > 1 else ""
        said += [
            f"p: {TESTS[metric]} against {on_one_line(best)} on the same {compared[0].images} test images{holm}.",
            "This test is about other images of the same kind, with these trained networks; not about training again.",
        ]
    if without := [name for name, one in tested.items() if one is None]:
        said.append(
            f"{prediction_files.name_of('test')} is missing or cannot be used, so there is no interval and no test: "
            f"{_listed(without)}. --mode=evaluate writes it."
        )
    if best is not None and tested.get(best) is not None:
        if other := [name for name, one in found.items() if name != best and one.p is None]:
            said.append(
                f"No paired test with {on_one_line(best)}, because the test images or their labels differ: "
                f"{_listed(other)}."
            )
    return said


def shown(p: float) -> str:
    """Return a p value with three decimals."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _rows(path: epath.Path) -> dict[str, tuple[str, str]] | None:
    """Return {path: (label, prediction)} of a file of predictions; None if it is missing or holds something else."""
    try:
        if not path.exists() or path.is_dir():
            return None
        rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    if not rows or rows[0][:3] != ["path", "label", "prediction"] or any(len(row) < 3 for row in rows[1:] if row):
        return None
    found = {row[0]: (row[1], row[2]) for row in rows[1:] if row}
    return found if len(found) == sum(map(bool, rows[1:])) else None


def _alone(one: Tested, metric: str) -> Paired:
    right, strata = _right(one, one), _strata(one, metric)
    return Paired(*image_interval(right, np.ones(len(right)), strata), len(right))


def _against(one: Tested, reference: Tested, metric: str) -> tuple[float, float]:
    """Return the difference of the accuracies of two runs, and its p."""
    differences, strata = _right(one, reference) - _right(reference, reference), _strata(reference, metric)
    if strata is None:
        return float(differences.mean()), paired_p(differences)
    sizes = np.bincount(strata)
    weights = 1 / sizes[strata] / len(sizes)
    return float(differences @ weights), paired_p(differences, weights)


def _right(one: Tested, order: Tested) -> np.ndarray:
    """Return 1 for each correctly predicted image, otherwise 0, in the order of another run's images."""
    return np.array([path in one.right for path in order.label], np.int64)


def _strata(one: Tested, metric: str) -> np.ndarray | None:
    if metric != "mean_per_class":
        return None
    return np.unique(list(one.label.values()), return_inverse=True)[1]


def _listed(names: Sequence[str]) -> str:
    return on_one_line(", ".join(names))
