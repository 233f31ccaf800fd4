"""Charts of a run: learning curves, reliability, familiarity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flax_augtl.runtime.charts import COLOURS, canvas, embedded, svg
from flax_augtl.runtime.markup import Markup
from flax_augtl.trust.calibration import Bin

_BLUE, _ORANGE, _GREEN = COLOURS[:3]
# Bins of the histogram; one is as wide as the usual limit of unknown images.
_BINS = 20
# More points of a curve are thinned out.
_POINTS = 1000


def learning_curves(history: Sequence[Mapping[str, Any]], best_step: int) -> list[Markup]:
    """Return charts of the loss, and of the validation accuracy, against steps; none without any rows.

    Args:
      history: rows of metrics.jsonl.
      best_step: marked by a vertical line.
    """
    train, val = ([row for row in history if row["split"] == split] for split in ("train", "val"))
    drawn = []
    losses = [("training batches", train, "loss", _ORANGE), ("validation", val, "loss", _BLUE)]
    tops = [("top-1", val, "top1", _BLUE), ("mean per class", val, "mean_per_class", _GREEN)]
    for label, scale, alt, lines in (
        ("loss", 1, "loss against steps", losses),
        ("validation accuracy (%)", 100, "validation accuracy against steps", tops),
    ):
        curves = [(name, _points(rows, key, scale), colour) for name, rows, key, colour in lines]
        curves = [curve for curve in curves if curve[1]]
        if not curves:
            continue
        figure, axes = canvas(len(curves) + 1)
        for name, points, colour in curves:
            axes.plot(*zip(*points, strict=True), label=name, color=colour, marker="o" if len(points) < 12 else "",
                      markersize=3, linewidth=1.6)  # fmt: skip
        axes.axvline(best_step, color="#777777", linestyle=":", linewidth=1.2, label=f"step {best_step}")
        axes.set(xlabel="step", ylabel=label)
        axes.set_xlim(left=0)
        drawn.append(embedded(svg(figure, axes), alt))
    return drawn


def _points(rows: Sequence[Mapping[str, Any]], key: str, scale: float) -> list[tuple[int, float]]:
    points = [(row["step"], scale * row[key]) for row in rows if isinstance(row.get(key), (int, float))]
    points = [point for point in points if np.isfinite(point[1])]
    if len(points) > _POINTS:
        points = [points[i] for i in np.linspace(0, len(points) - 1, _POINTS).astype(int)]
    return points


def reliability_diagram(before: Sequence[Bin], after: Sequence[Bin] | None) -> Markup:
    """Return a chart of the share of correct predictions against their confidence.

    Args:
      before: bins without a temperature.
      after: bins with it; None without one.
    """
    lines = [("as trained" if after is not None else "predictions", before, _ORANGE)]
    if after is not None:
        lines.append(("calibrated", after, _BLUE))
    figure, axes = canvas(len(lines) + 1)
    axes.plot([0, 100], [0, 100], color="#777777", linestyle=":", linewidth=1.2, label="perfect")
    for name, bins, colour in lines:
        total = sum(one.count for one in bins)
        x, y = [100 * one.confidence for one in bins], [100 * one.accuracy for one in bins]
        axes.plot(x, y, color=colour, linewidth=1.4, marker="o", markersize=3, label=name)
        axes.scatter(x, y, s=[20 + 400 * one.count / total for one in bins], color=colour, alpha=0.25, linewidth=0)
    axes.set(xlabel="confidence (%)", ylabel="correct (%)", xlim=(0, 102), ylim=(-2, 102))
    return embedded(svg(figure, axes), "share of correct predictions against confidence")


def familiarity_histogram(values: np.ndarray, below: float) -> Markup:
    """Return a chart of how many images have which familiarity; those below the limit have another colour."""
    figure, axes = canvas(2)
    edges = np.linspace(0, 1, _BINS + 1)
    bins = [(values[values < below], _ORANGE, "marked as unknown"), (values[values >= below], _BLUE, "others")]
    axes.hist(
        [some for some, _, _ in bins], bins=list(edges), stacked=True, color=[colour for _, colour, _ in bins],
        label=[label for _, _, label in bins],
    )  # fmt: skip
    axes.axhline(len(values) / _BINS, color="#777777", linestyle=":", linewidth=1.2)
    axes.set(xlabel="familiarity", ylabel="images", xlim=(0, 1))
    return embedded(svg(figure, axes), "number of images against familiarity")
