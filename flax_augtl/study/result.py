"""What a study measured, as its report reads it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class StudyResult:
    """What a study measured. Accuracies are fractions in [0, 1], durations seconds.

    Attributes:
      config: the resolved config as JSON values.
      metric: "top1" or "mean_per_class": the dataset's own, by which validation chose.
      depths: freeze depths that were asked for, bottom to top: "none" (all tuned), then topmost frozen layer groups,
        then "all" (all but the new layers).
      rows: one a trial: `cell` (its id), `stage` ("select" or "final"), `head`, `depth` (one of `depths`), `frozen` (its
        topmost frozen layer group, or "none"), `learning_rate`, `seed`, `steps`, `settings` (of the head), `metric`,
        `val` and `test` (`top1`, `top5`, `mean_per_class`, `loss`, `calibration_error`, `n`; or None; `test` also has
        what `training.evaluation.averages` gives), `predicted` (of a final trial the classes it predicts of the test
        images, as `study.predicted` writes them; rows of earlier versions lack it), `best_step`, `seconds`,
        `examples_seen`, `trainable` (parameters), `history` (rows of `step`, `examples`, `seconds`, `loss` of training,
        `val` (the metric) and `val_loss` or None), `change` (pretrained layer group: ‖w − w₀‖ / ‖w₀‖), `diverged`,
        `error` (None or a sentence). Selecting trials have `val`; final ones, trained on training and validation data,
        have `test`.
      winners: `depth`, `learning_rate` and `steps` that validation chose for each head, in the config's order; a head
        of which every trial failed is not among them.
      best: the head that validation chose; None where every trial failed.
      finals_by_depth: the best rate of every head and depth was retrained and tested, not the winners' alone.
      leep: None, or of LEEP's predictor `val` and `test` (metrics as above), `test_by_seed` (such metrics, a seed each,
        in ascending order of the seeds of the final trials), `predicted_by_seed` (likewise, as in rows) and `speaks`
        (target class: [[source class, P(y|z) share], …]).
      counts: examples in `train`, `val`, `test`.
      class_names: of the target task.
      notes: sentences about the data and the study.
      leakage: sentences about what the source network has seen of the target task.
      versions: of programs and libraries.
      seconds: compute of all trials, caches included.
      predictions: None, or what the winner's first seed said of the test split: `id` (texts), `label`, `prediction`
        (positions in `class_names`), `confidence`, each a list in the order of the examples.
      one_test_split: all seeds were tested on the same images.
      tests: the test images by seed, in the order of what trials predict: `id` (texts) and `label` (positions in
        `class_names`), each a sequence.
      choices: sentences about how sure the choices on validation data are: too few images, ties.
      scores: None, or of the winner's first seed `metrics` (numbers or None), `intervals` over the test images
        ({metric: [low, high]}) and `classes` (`Evaluation.class_table`).
      same_depths: for each head, depths that freeze the same as another one, and the name of that: {head: {depth:
        name}}.
      left_out: sentences about what the time budget left out.
      account: seconds that each part of a study with a time budget took, by its name; empty without one.
      image: gives a test example, by its position in `predictions`, as uint8 [H, W, 3]; None where there are none.
    """

    config: Mapping[str, Any]
    metric: str
    depths: tuple[str, ...]
    rows: list[dict[str, Any]]
    winners: Mapping[str, Mapping[str, Any]]
    best: str | None
    counts: Mapping[str, int]
    class_names: tuple[str, ...]
    finals_by_depth: bool = False
    leep: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    leakage: tuple[str, ...] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    predictions: Mapping[str, list] | None = None
    tests: Mapping[int, Mapping[str, Sequence]] = dataclasses.field(default_factory=dict)
    choices: tuple[str, ...] = ()
    scores: Mapping[str, Any] | None = None
    same_depths: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    account: Mapping[str, float] = dataclasses.field(default_factory=dict)
    picture: Callable[[int], np.ndarray] | None = None
    one_test_split: bool = True
