"""What the test images say: intervals and paired tests over them, from what each final trial predicts."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from flax_augtl.study.report.queries import Row
from flax_augtl.study.result import StudyResult
from flax_augtl.study.trials import predictions
from flax_augtl.training.intervals import image_interval, paired_p

ABSENT = "no interval over test images, because an earlier version did not save the predictions"


@dataclasses.dataclass(frozen=True)
class OverImages:
    """The 95 % bootstrap interval of a mean over test images, for the networks that were trained.

    Attributes:
      low, high: ends of the interval.
      images: different test images.
      seeds: networks that saw them; of a difference, pairs of networks.
      p: of a difference, of the exact McNemar test, or of its like for several seeds (`paired_p`); else NaN.
      adjusted: that p by Holm's method in its table.
    """

    low: float
    high: float
    images: int
    seeds: int
    p: float = math.nan
    adjusted: float = math.nan


def over_images(result: StudyResult, trials: Mapping[int, Row]) -> OverImages | None:
    """Return the interval of the mean over seeds; None if it is not known of every seed what it says of each image."""
    right = {seed: found for seed, row in trials.items() if (found := _right(result, seed, row)) is not None}
    if not trials or len(right) < len(trials):
        return None
    sums, counts, labels = _by_image(result, right)
    _, low, high = image_interval(sums, counts, _strata(result, labels))
    return OverImages(low, high, len(sums), len(trials))


def paired(result: StudyResult, trials: Mapping[int, Row], others: Mapping[int, Row]) -> OverImages | None:
    """Return the interval and the test of a mean difference over the seeds that both have; None if it is not known."""
    seeds = sorted(trials.keys() & others.keys())
    pairs = {seed: (_right(result, seed, trials[seed]), _right(result, seed, others[seed])) for seed in seeds}
    if not pairs or any(one is None or other is None for one, other in pairs.values()):
        return None
    sums, counts, labels = _by_image(result, {seed: one - other for seed, (one, other) in pairs.items()})
    strata = _strata(result, labels)
    _, low, high = image_interval(sums, counts, strata, lowest=-1.0)
    weights = None if strata is None else 1 / np.bincount(strata, counts)[strata]
    return OverImages(low, high, len(sums), len(seeds), p := paired_p(sums, weights), p)


def _right(result: StudyResult, seed: int, row: Row) -> np.ndarray | None:
    """Return 1 for each test image of a seed that a trial is right about, else 0; None if it is not known."""
    said, test = predictions.read(row), result.tests.get(seed)
    if said is None or test is None or len(said) != len(test["label"]):
        return None
    return (said == np.asarray(test["label"])).astype(np.int64)


def _by_image(result: StudyResult, values: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sum over seeds, the number of seeds and the label of every image; seeds may have other test images."""
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
