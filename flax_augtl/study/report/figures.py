"""Figures of a study as SVG: accuracy against freeze depth, and learning curves. Text is drawn as outlines."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flax_augtl.runtime.charts import COLOURS, canvas, svg
from flax_augtl.study.report import queries
from flax_augtl.study.report.formatting import METRICS, shortened
from flax_augtl.study.report.tables import Estimate, estimate, reference
from flax_augtl.study.result import StudyResult

# After each round of colours the dashes change.
DASHES = ("-", "--", ":")
# More bands in one figure would hide one another.
MOST_BANDS = 4
LABEL = 25

Band = Mapping[str, Estimate]


def depth_figures(result: StudyResult, split: str) -> list[tuple[str, str]]:
    """Draw accuracy against freeze depth, with a line for each head; return pairs of (SVG, description).

    Up to four heads share one figure with 95 % bands. With more heads, the first figure has lines only, and another
    figure for each head shows its band and that of the reference.

    Args:
      result: what the study measured.
      split: "val" for the selecting trials with the best rate of each depth, "test" for the final trials.
    """
    bands = {head: found for head in queries.heads(result) if (found := _by_depth(result, head, split))}
    if not bands:
        return []
    name = {"val": "validation", "test": "test"}[split]
    what = f"{METRICS[result.metric]} on {name} against freeze depth"
    heads, base = list(bands), reference(result)
    limits = _limits(bands.values())
    of_leep = result.leep[split] if result.leep else None
    leep = of_leep[result.metric] if of_leep else None
    drawn = [
        (
            _depth_figure(result, bands, heads, limits, name, banded=len(heads) <= MOST_BANDS, leep=leep),
            what,
        )
    ]
    if len(heads) > MOST_BANDS:
        for head in heads:
            shown = [head] if base in (None, head) or base not in bands else [base, head]
            drawn.append(
                (_depth_figure(result, bands, shown, limits, name, banded=True, small=True), f"{head}: {what}")
            )
    return drawn


def _by_depth(result: StudyResult, head: str, split: str) -> dict[str, Estimate]:
    find = queries.selected if split == "val" else queries.finals
    return {
        depth: found
        for depth in result.depths
        if (found := estimate([*queries.values(find(result, head, depth), split, result.metric).values()]))
    }


def _depth_figure(
    result: StudyResult,
    bands: Mapping[str, Band],
    shown: Sequence[str],
    limits: tuple[float, float],
    split: str,
    *,
    banded: bool,
    small: bool = False,
    leep: float | None = None,
) -> str:
    figure, axes = canvas(len(shown) + (leep is not None), small)
    place = {depth: position for position, depth in enumerate(result.depths)}
    lengths = {head: _lengths(result, head, bands[head]) for head in bands}
    longest = max(steps for some in lengths.values() for steps in some)
    for head in shown:
        points = bands[head]
        where, means = [place[depth] for depth in points], [100 * point.mean for point in points.values()]
        style = _style(result, head)
        axes.plot(where, means, label=shortened(head, LABEL), marker="o", markersize=4, **style)
        for place_of, point in zip(where, points.values(), strict=True):
            if point.seeds > 1 and np.isnan(point.low):  # Too few seeds for a band: show each seed.
                axes.plot(
                    [place_of] * point.seeds,
                    [100 * value for value in point.values],
                    linestyle="",
                    marker=".",
                    markersize=4,
                    alpha=0.6,
                    color=style["color"],
                )
        # Hollow points mark shorter trainings, which must not be compared with longer ones.
        shorter = [index for index, steps in enumerate(lengths[head]) if steps < longest]
        axes.plot(
            [where[index] for index in shorter],
            [means[index] for index in shorter],
            linestyle="",
            marker="o",
            markersize=4,
            markerfacecolor="white",
            markeredgecolor=style["color"],
            zorder=4,
        )
        if banded:
            low, high = ([100 * getattr(point, end) for point in points.values()] for end in ("low", "high"))
            axes.fill_between(where, low, high, color=style["color"], alpha=0.18, linewidth=0)
            if len(where) == 1:  # A band over one place would be invisible.
                axes.vlines(where, low, high, color=style["color"], linewidth=1.2)
    if leep is not None:
        low, high = min(limits[0], 100 * leep - 1), max(limits[1], 100 * leep + 1)
        # A value far away would squeeze the lines of the heads together.
        near = high - low <= 1.5 * (limits[1] - limits[0])
        axes.axhline(
            100 * leep if near else np.nan,
            color="#777777",
            linestyle="-." if near else "",
            linewidth=1,
            label=f"LEEP, no training: {100 * leep:.1f}" + ("" if near else " (outside the figure)"),
        )
        limits = (low, high) if near else limits
    crowded = len(result.depths) > 8 or max(map(len, result.depths)) > 8
    axes.set_xticks(
        range(len(result.depths)),
        result.depths,
        rotation=60 if crowded else 0,
        ha="right" if crowded else "center",
        fontsize=8 if crowded else 8.5 if small else 10,
    )
    axes.set_xlim(-0.4, len(result.depths) - 0.6)
    axes.set_ylim(limits)
    axes.set(xlabel="topmost frozen layer group", ylabel="%" if small else f"{_short(result.metric)}, {split} (%)")
    return svg(figure, axes)


def _lengths(result: StudyResult, head: str, depths: Iterable[str]) -> list[int]:
    """Return the longest training of a head, in steps, at each depth."""
    return [max(queries.lengths(result, head, depth), default=0) for depth in depths]


def _limits(bands: Iterable[Band]) -> tuple[float, float]:
    """Return limits that contain every mean and band, to be shared by all figures that are compared."""
    ends = [
        100 * end
        for band in bands
        for point in band.values()
        for end in (point.mean, point.low, point.high, *point.values)
    ]
    low, high = np.nanmin(ends), np.nanmax(ends)
    margin = max(1.0, 0.06 * (high - low))
    return max(low - margin, -1.0), min(high + margin, 101.0)


def curve_figures(result: StudyResult) -> list[tuple[str, str]]:
    """Draw the mean validation accuracy of each head's winner against epochs and seconds; return (SVG, description)."""
    curves = {
        head: curve
        for head, winner in result.winners.items()
        if (curve := _curve(result, queries.selected(result, head, winner["depth"])))
    }
    if not curves:
        return []
    drawn = []
    for column, unit, label in ((0, "epochs", "epochs"), (1, "seconds", "seconds of training")):
        figure, axes = canvas(len(curves), False)
        for head, points in curves.items():
            axes.plot(
                [point[column] for point in points],
                [100 * point[2] for point in points],
                label=shortened(head, LABEL),
                marker="o" if len(points) < 12 else "",
                markersize=3,
                **_style(result, head),
            )
        axes.set(xlabel=label, ylabel=f"{_short(result.metric)}, validation (%)")
        axes.set_xlim(left=0)
        drawn.append((svg(figure, axes), f"{METRICS[result.metric]} on validation against {unit}"))
    return drawn


def _curve(result: StudyResult, selected: Mapping[int, queries.Row]) -> list[tuple[float, float, float]]:
    """Return the means over seeds of (epochs, seconds, accuracy) at every step at which all seeds were evaluated."""
    runs = [
        {point["step"]: point for point in row["history"] or () if point["val"] is not None}
        for row in selected.values()
    ]
    if not selected:
        return []
    row = next(iter(selected.values()))
    return [
        (
            queries.epochs(result, row, queries.mean(run[step]["examples"] for run in runs)),
            queries.mean(run[step]["seconds"] for run in runs),
            queries.mean(run[step]["val"] for run in runs),
        )
        for step in sorted(set.intersection(*map(set, runs)))
    ]


def _short(metric: str) -> str:
    return {"top1": "top-1", "mean_per_class": "mean per class"}[metric]


def _style(result: StudyResult, head: str) -> dict[str, Any]:
    """Return the line style of a head, the same in every figure."""
    index = queries.heads(result).index(head)
    best = head == result.best
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
        "linewidth": 2.6 if best else 1.5,
        "zorder": 3 if best else 2,
    }
