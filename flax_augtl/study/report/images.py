"""Intervals and paired tests over the test images, from the predictions of each final trial."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from flax_augtl.study.result import Row, StudyResult
from flax_augtl.study.trials import predictions
from flax_augtl.training.intervals import image_interval, paired_p

ABSENT = "no interval over test images, because an earlier version did not save the predictions"


@dataclasses.dataclass(frozen=True)
class OverImages:
    """The 95 % bootstrap interval of a mean over test images, for these same trained networks.

    Attributes:
      low: lower end of the interval.
      high: upper end of the interval.
      images: number of different test images.
      seeds: number of networks, or of pairs of networks for a difference.
      p: for a difference, of the exact McNemar test or its analogue for several seeds (`paired_p`); else NaN.
      adjusted: `p` after correction by Holm's method in its table.
    """

    low: float
    high: float
    images: int
    seeds: int
    p: float = math.nan
    adjusted: float = math.nan


def over_images(result: StudyResult, trials: Mapping[int, Row]) -> OverImages | None:
    """Return the interval of the mean over seeds; None unless the predictions of every seed are known."""
    right = {seed: found for seed, row in trials.items() if (found := _right(result, seed, row)) is not None}
    if not trials or len(right) < len(trials):
        return None
    sums, counts, labels = _by_image(result, right)
    _, low, high = image_interval(sums, counts, _strata(result, labels))
    return OverImages(low, high, len(sums), len(trials))


def paired(result: StudyResult, trials: Mapping[int, Row], others: Mapping[int, Row]) -> OverImages | None:
    """Return the interval and test of a mean difference over the common seeds; None if predictions are unknown."""
    seeds = sorted(trials.keys() & others.keys())
    differences = {}
    for seed in seeds:
        one, other = _right(result, seed, trials[seed]), _right(result, seed, others[seed])
        if one is None or other is None:
            return None
        differences[seed] = one - other
    if not differences:
        return None
    sums, counts, labels = _by_image(result, differences)
    strata = _strata(result, labels)
    _, low, high = image_interval(sums, counts, strata, lowest=-1.0)
    weights = None if strata is None else 1 / np.bincount(strata, counts)[strata]
    return OverImages(low, high, len(sums), len(seeds), p := paired_p(sums, weights), p)


def _right(result: StudyResult, seed: int, row: Row) -> np.ndarray | None:
    """Return 1 for each test image that a trial classifies correctly, else 0; None if its predictions are unknown."""
    said, test = predictions.read(row), result.tests.get(seed)
    if said is None or test is None or len(said) != len(test["label"]):
        return None
    return (said == np.asarray(test["label"])).astype(np.int64)


def _by_image(result: StudyResult, values: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sum over seeds, the number of seeds and the label of every image that some seed was tested on."""
    known: dict[str, int] = {}
    places = {
        seed: np.array([known.setdefault(name, len(known)) for name in result.tests[seed]["id"]], np.int64)
        for seed in values
    }
    sums, counts, labels = (np.zeros(len(known), np.int64) for _ in range(3))
    for seed, some in values.items():
        np.add.at(sums, places[seed], some)
        np.add.at(counts, places[seed], 1)
        labels[places[seed]] = result.tests[seed]["label"]
    return sums, counts, labels


def _strata(result: StudyResult, labels: np.ndarray) -> np.ndarray | None:
    return labels if result.metric == "mean_per_class" else None
