"""The evaluation of a network on a split: probabilities, metrics, and scores of each class."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import Examples
from flax_augtl.training import metrics
from flax_augtl.training.evaluation_loop import evaluate
from flax_augtl.training.intervals import confusion_intervals
from flax_augtl.training.kept_features import KeptSplit

# Larger arrays of probabilities are not kept; metrics that need them are then None.
MOST_BYTES = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """An evaluation of one split.

    Attributes:
      sums: the sums of `metrics.evaluation_sums` over all images.
      labels: the labels int [N], in the order of the examples.
      probabilities: float32 [N, C], in the order of the examples; None above `MOST_BYTES`.
      ids: the ids of the examples, in their order; empty if they are not known.
    """

    sums: Mapping[str, np.ndarray]
    labels: np.ndarray
    probabilities: np.ndarray | None
    ids: Sequence[str] = ()

    @property
    def confusion(self) -> np.ndarray:
        """The confusion matrix: counts [C, C], one row per label and one column per prediction."""
        return self.sums["confusion"]

    @functools.cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics of `metrics.summary` and `averages`; None for a metric that is not defined."""
        return {**metrics.summary(self.sums), **averages(self._scores)}

    @functools.cached_property
    def intervals(self) -> dict[str, list[float]]:
        """The ends of the 95 % bootstrap intervals of `top1` and `mean_per_class` over images."""
        return confusion_intervals(self.confusion)

    def class_table(self, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return the rows of `metrics.class_table` with `precision`, `recall` (the accuracy), `f1` and `roc_auc`."""
        return [
            {**row, **{name: _or_none(self._scores[name][index]) for name in ("precision", "recall", "f1", "roc_auc")}}
            for index, row in enumerate(metrics.class_table(self.confusion, class_names))
        ]

    @functools.cached_property
    def _scores(self) -> dict[str, np.ndarray]:
        return class_scores(self.confusion, self.labels, self.probabilities)


def evaluation(
    network: Any,
    preprocessing: Any,
    variables: Any,
    examples: Examples,
    data: DataConfig,
    *,
    batch_size: int,
    kept: KeptSplit | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Evaluate a network on a split; every process of a run gets the same result.

    The arguments are those of `evaluation_loop.evaluate`, and `done`, which is called with the number of images of every
    batch.
    """
    probabilities: np.ndarray | None = None

    def keep(places: np.ndarray, found: np.ndarray) -> None:
        nonlocal probabilities
        done(len(places))
        if not keeps:
            return
        if probabilities is None:
            probabilities = np.zeros((len(examples), found.shape[1]), np.float32)
        probabilities[places] = found

    keeps = fits(len(examples), network.head.num_classes)
    sums = evaluate(
        network,
        preprocessing,
        variables,
        examples,
        data,
        batch_size=batch_size,
        each=keep,
        kept=kept,
    )
    return Evaluation(sums, np.asarray(examples.labels), probabilities, examples.ids)


def fits(images: int, classes: int) -> bool:
    """Return whether the probabilities of a split are kept."""
    return 4 * images * classes <= MOST_BYTES


def class_scores(
    confusion: np.ndarray, labels: np.ndarray | None = None, probabilities: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return scikit-learn's scores of each class, float64 [C]; NaN for a score that is not defined.

    Args:
      confusion: counts [C, C], one row per label and one column per prediction.
      labels: int [N].
      probabilities: float32 [N, C].

    Returns:
      A dict of
        `n`: the number of images;
        `precision`: not defined for a class that is never predicted;
        `recall`: the accuracy of the class, not defined for a class without images;
        `f1`: not defined for a class that is neither predicted nor has images;
        `roc_auc`: one class against the rest, not defined without images of both or without finite probabilities;
        `kappa`: a single value.
    """
    from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support, roc_auc_score  # Slow to import.

    label, prediction = np.nonzero(confusion)
    counts, classes = confusion[label, prediction], len(confusion)
    precision, recall, f1, _ = precision_recall_fscore_support(
        label,
        prediction,
        labels=np.arange(classes),
        sample_weight=counts,
        zero_division=np.nan,  # pyright: ignore[reportArgumentType]  # The default "warn" is taken for the type.
    )
    # With a single class of labels and predictions, kappa would be 0/0.
    kappa = cohen_kappa_score(label, prediction, sample_weight=counts) if len({*label, *prediction}) > 1 else np.nan
    n, areas = confusion.sum(axis=1), np.full(classes, np.nan)
    if probabilities is not None and np.isfinite(probabilities).all():
        for index in np.flatnonzero((n > 0) & (n < n.sum())):
            areas[index] = roc_auc_score(labels == index, probabilities[:, index])
    found = {"n": n, "precision": precision, "recall": recall, "f1": f1, "roc_auc": areas, "kappa": kappa}
    return {name: np.asarray(value) for name, value in found.items()}


def averages(scores: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Return averages of class scores over the classes that occur in the split.

    `metrics.summary` has the others: `mean_per_class` is the balanced accuracy and the mean recall, `top1` the weighted
    recall, and `loss` the log-loss.

    Returns:
      `precision`, `f1` and `roc_auc` as means over classes; `weighted_precision` and `weighted_f1` as means over
      images; and `kappa`. The precision of a class that is never predicted counts as 0.
    """
    occurs = scores["n"] > 0
    share = scores["n"][occurs] / scores["n"].sum()
    found = {name: np.nan_to_num(scores[name][occurs]) for name in ("precision", "f1")}
    areas = scores["roc_auc"][~np.isnan(scores["roc_auc"])]
    return {
        **{name: float(values.mean()) for name, values in found.items()},
        **{f"weighted_{name}": float(values @ share) for name, values in found.items()},
        "kappa": _or_none(scores["kappa"]),
        "roc_auc": float(areas.mean()) if len(areas) else None,
    }


def _or_none(value: np.ndarray) -> float | None:
    return None if math.isnan(value) else float(value)


def as_lines(values: Mapping[str, Any]) -> list[str]:
    """Return the metrics besides the accuracies and the loss as lines of text."""

    def shown(name: str) -> str:
        return "not defined" if values.get(name) is None else f"{values[name]:.4f}"

    return [
        f"top5 {shown('top5')}",
        f"calibration_error {shown('calibration_error')}",
        f"precision {shown('precision')}, F1 {shown('f1')} (means over the classes; weighted by their images: "
        f"{shown('weighted_precision')}, {shown('weighted_f1')})",
        f"Cohen's kappa {shown('kappa')}, ROC AUC {shown('roc_auc')} (one class against the rest, mean)",
        "The mean per class is the balanced accuracy (and the mean recall), the loss is the log-loss.",
    ]
