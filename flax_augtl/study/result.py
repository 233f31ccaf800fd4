"""What a study measured, as its report reads it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Row = Mapping[str, Any]  # The row of one trial; see `StudyResult.rows`.


@dataclasses.dataclass(frozen=True, eq=False)
class StudyResult:
    """What a study measured. Accuracies are fractions in [0, 1], durations are seconds.

    Attributes:
      config: the resolved config as JSON values.
      metric: "top1" or "mean_per_class": the metric of the dataset, by which validation chose.
      depths: the requested freeze depths, bottom to top: "none" (everything is trained), then topmost frozen layer
        groups, then "all" (everything but the new layers is frozen).
      rows: one for each trial: `cell` (its name), `stage` ("select" or "final"), `head`, `depth` (one of `depths`),
        `frozen` (its topmost frozen layer group, or "none"), `learning_rate`, `seed`, `steps`, `settings` (of the
        head), `metric`, `val` and `test` (`top1`, `top5`, `mean_per_class`, `loss`, `calibration_error`, `n`; or None;
        `test` also has what `training.evaluation.averages` gives), `predicted` (of a final trial, the classes that it
        predicts for the test images, as `trials.predictions` writes them; rows of earlier versions lack it),
        `best_step`, `seconds`, `examples_seen`, `trainable` (parameters), `history` (rows of `step`, `examples`,
        `seconds`, `loss` of training, `val` (the metric) and `val_loss` or None), `change` (pretrained layer group: ‖w
        − w₀‖ / ‖w₀‖), `diverged`, `error` (None or a sentence). Selecting trials have `val`. Final trials, which were
        trained on training and validation data, have `test`.
      winners: `depth`, `learning_rate` and `steps` that validation chose for each head, in the order of the config. A
        head whose trials all failed is missing.
      best: the head that validation chose; None if every trial failed.
      finals_by_depth: whether the best rate of every head and depth was retrained and tested, not only the winners.
      leep: None, or the results of LEEP's predictor: `val` and `test` (metrics as above), `test_by_seed` (such metrics
        for each seed, in ascending order of the seeds of the final trials), `predicted_by_seed` (likewise, as in rows)
        `speaks` (target class: [[source class, P(y|z) share], …]) and `scores` (`leep` and `nce` of the first seed's
        training images).
      counts: number of examples in `train`, `val`, `test`.
      class_names: of the target task.
      notes: sentences about the data and the study.
      leakage: sentences about what the source network has seen of the target task.
      versions: of Python, the libraries and the device.
      seconds: computing time of all trials and of the caches.
      predictions: None, or what the winner's first seed predicts for the test split: `id` (texts), `label`,
        `prediction` (positions in `class_names`), `confidence`, each a list in the order of the examples.
      one_test_split: whether all seeds were tested on the same images.
      tests: the test images by seed, in the order of the predictions: `id` (texts) and `label` (positions in
        `class_names`), each a sequence.
      choices: sentences about how certain the choices on validation data are: too few images, ties.
      scores: None, or for the winner's first seed `metrics` (numbers or None), `intervals` over the test images
        ({metric: [low, high]}) and `classes` (`Evaluation.class_table`).
      same_depths: for each head, the depths that freeze the same layers as another depth: {head: {depth: name of the
        other}}.
      left_out: sentences about what the time budget left out.
      account: seconds that each part of a study with a time budget took, by name; empty without a budget.
      untrained: scores without training of the first seed's training images: topmost frozen layer group: `logme` and
        `h_score` of what it puts out, pooled over space; for those whose activations are kept.
      image: a function from the position of a test example in `predictions` to its pixels, uint8 [H, W, 3]; None
        without predictions.
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
    tests: Mapping[int, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    choices: tuple[str, ...] = ()
    scores: Mapping[str, Any] | None = None
    same_depths: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    account: Mapping[str, float] = dataclasses.field(default_factory=dict)
    image: Callable[[int], np.ndarray] | None = None
    untrained: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    one_test_split: bool = True
