"""The numbers in the tables of a report: by head, by question and by freeze depth, all paired by seed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from flax_augtl.config.heads import GRADIENT, PRESETS
from flax_augtl.study.report import queries
from flax_augtl.study.report.images import OverImages, over_images, paired
from flax_augtl.study.report.norm_questions import norm_questions
from flax_augtl.study.result import StudyResult
from flax_augtl.study.rivals import PLUS
from flax_augtl.training.statistics import bca_interval, holm, sign_flip_p

# A sign-flip test over fewer pairs cannot show p < 0.05, and an interval over fewer seeds is hardly more than their range.
ENOUGH_SEEDS = 6
LEEP = "LEEP, no training"
# The names of the presets in METHOD.md §2 to §5.
ROLES = {
    "traditional": "(a)", "traditional_l2": "control", "kept_plain": "(b), no norm", "kept": "(b)", "kept_deeper": "(c)",
    "kept_deeper_batch": "(c), batch norm", "kept_deeper2": "(d)", "deeper": "DA", "wider": "WA",
    "random_deeper": "control", "shuffled_deeper": "control", "scratch": "control",
    "lda": "closed form", "ridge": "closed form", "class_means": "closed form",
}  # fmt: skip
QUESTIONS = (
    ("Does keeping the classification layer help?", "kept", "traditional"),
    ("… against the same norm without it?", "kept", "traditional_l2"),
    ("Does a new layer on top of it help?", "kept_deeper", "kept"),
    ("… and a second one?", "kept_deeper2", "kept_deeper"),
    ("Is it the kept layer, or one more layer?", "kept_deeper", "deeper"),
    ("Is it the kept layer's weights, not random ones?", "kept_deeper", "random_deeper"),
    ("… not its rows in another order?", "kept_deeper", "shuffled_deeper"),
    ("Does normalising and scaling help (kept)?", "kept", "kept_plain"),
    ("Does normalising and scaling help (traditional)?", "traditional_l2", "traditional"),
    ("L2 rather than batch norm?", "kept_deeper", "kept_deeper_batch"),
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
      mean: over seeds.
      low: lower end of its 95 % BCa interval over seeds; NaN for fewer than six seeds.
      high: upper end, likewise.
      seeds: number of seeds.
      values: of each seed.
      images: its interval over test images; None if the predictions are unknown.
    """

    mean: float
    low: float
    high: float
    seeds: int
    values: tuple[float, ...] = dataclasses.field(default=(), kw_only=True)
    images: OverImages | None = dataclasses.field(default=None, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Difference(Estimate):
    """A mean of paired differences.

    Attributes:
      p: of the sign-flip test.
      adjusted: `p` after correction by Holm's method in its table.
    """

    p: float
    adjusted: float


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
      head: its name.
      role: the network of the paper or the control that it is; "" for a head of the user.
      depth: chosen freeze depth; "" for LEEP's predictor.
      learning_rate: that validation chose; None for LEEP's predictor.
      steps: that validation chose; None for LEEP's predictor.
      validation: of the selecting trials of that choice, in the metric that selects.
      test: the same metric on the test split; None if no trial was tested.
      top1: top-1 accuracy on the test split.
      difference: to the reference; None for the reference itself, and without common seeds.
      reach: mean epochs and seconds until 90 % of the best validation accuracy of the same trial.
    """

    head: str
    role: str
    depth: str
    learning_rate: float | None
    steps: int | None
    validation: Estimate | None
    test: Estimate | None
    top1: Estimate | None
    difference: Difference | None
    reach: tuple[float, float] | None


def estimate(values: Sequence[float], images: OverImages | None = None) -> Estimate | None:
    """Return the mean of the values of seeds and its interval; None without values."""
    return Estimate(*_over_seeds(values), len(values), values=tuple(values), images=images) if len(values) else None


def _over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    return bca_interval(values) if len(values) >= ENOUGH_SEEDS else (queries.mean(values), math.nan, math.nan)


def reference(result: StudyResult) -> str | None:
    """Return the head that others are compared with: `traditional` if it was tested, else the first tested head."""
    names = [name for name in result.winners if queries.finals(result, name, result.winners[name]["depth"])]
    return "traditional" if "traditional" in names else names[0] if names else None


def role(result: StudyResult, head: str) -> str:
    """Return the role of a head in METHOD.md, by its name or settings; "" for a head of the user."""
    if head in ROLES:
        return ROLES[head]
    settings = next((row["settings"] for row in result.rows if row["head"] == head and row["settings"]), {})
    settings = {"fit": GRADIENT, "strength": None} | settings  # Rows of earlier versions lack them.
    for name, preset in PRESETS.items():
        # Controls try both rates of the classification layer.
        values = dataclasses.asdict(preset) | {"classifier_rate": settings.get("classifier_rate")}
        if settings | {"new_layers": tuple(settings.get("new_layers", ()))} == values:
            return ROLES[name]
    return ""


def summary(result: StudyResult) -> list[Line]:
    """Return a line for the winner of every head, and one for LEEP's predictor."""
    base = reference(result)
    against = queries.finals(result, base, result.winners[base]["depth"]) if base else {}
    lines = [
        _line(result, name, winner["depth"], {} if name == base else against) for name, winner in result.winners.items()
    ]
    if result.leep:
        tested = queries.leep_trials(result)
        values, top1 = (queries.values(tested, "test", metric) for metric in (result.metric, "top1"))
        lines.append(
            Line(
                LEEP,
                "",
                "",
                None,
                None,
                _single(result.leep["val"], result.metric),
                estimate([*values.values()], over_images(result, tested))
                or _single(result.leep["test"], result.metric),
                estimate([*top1.values()]) or _single(result.leep["test"], "top1"),
                _difference(result, tested, against),
                None,
            )
        )
    return adjusted(lines)


def by_depth(result: StudyResult) -> list[Line]:
    """Return a line for every head and freeze depth; differences are to the reference at the same depth."""
    base = reference(result)
    return adjusted(
        [
            _line(result, head, depth, {} if head == base or not base else queries.finals(result, base, depth))
            for head in queries.heads(result)
            for depth in queries.depths(result, head)
            if queries.selected(result, head, depth)
        ]
    )


def by_method(result: StudyResult) -> list[Line]:
    """Return a line for every head that was tried with further methods, and for its methods, with differences to it.

    A method is compared at the depth, learning rate and strength that validation chose for it. Without methods there are no
    lines.
    """
    plain = list(dict.fromkeys(name.partition(PLUS)[0] for name in result.winners if PLUS in name))
    lines = []
    for base in plain:
        depth = result.winners.get(base, {}).get("depth")
        against = queries.finals(result, base, depth) if depth else {}
        for name, winner in result.winners.items():
            if name.partition(PLUS)[0] == base:
                lines.append(_line(result, name, winner["depth"], {} if name == base else against))
    return adjusted(lines)


def questions(result: StudyResult) -> list[tuple[str, str, str, Difference]]:
    """Return (question, head, other head, difference) for every question whose heads were both tested."""
    tests = {name: queries.finals(result, name, winner["depth"]) for name, winner in result.winners.items()}
    fixed = {(head, other) for _, head, other in QUESTIONS}
    asked = (*QUESTIONS, *(one for one in norm_questions(result) if one[1:] not in fixed))
    found = [
        (text, head, other, difference)
        for text, head, other in asked
        if head in tests and other in tests and (difference := _difference(result, tests[head], tests[other]))
    ]
    return [(*row[:3], difference) for row, difference in zip(found, corrected([row[3] for row in found]), strict=True)]


def adjusted(lines: list[Line]) -> list[Line]:
    """Return the lines with their p values corrected for the number of lines."""
    levels = iter(corrected([line.difference for line in lines if line.difference]))
    return [dataclasses.replace(line, difference=next(levels)) if line.difference else line for line in lines]


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """Return differences with their p values corrected for their number by Holm's method."""
    over = iter(holm([one.images.p for one in differences if one.images]))
    levels = holm([one.p for one in differences])
    return [
        dataclasses.replace(
            one, adjusted=level, images=one.images and dataclasses.replace(one.images, adjusted=next(over))
        )
        for one, level in zip(differences, levels, strict=True)
    ]


def _line(result: StudyResult, head: str, depth: str, against: Mapping[int, queries.Row]) -> Line:
    validated, tested = queries.selected(result, head, depth), queries.finals(result, head, depth)
    winner = result.winners.get(head, {})
    chosen = next(iter({**validated, **tested}.values()), {})
    if tested:
        chosen = next(iter(tested.values()))
    elif winner.get("depth") == depth:
        chosen = winner
    reach = [found for row in validated.values() if (found := queries.reached(result, row))]
    return Line(
        head,
        role(result, head),
        depth,
        chosen.get("learning_rate") or None,
        chosen.get("steps") if chosen.get("learning_rate") else None,  # A closed form takes no steps.
        estimate([*queries.values(validated, "val", result.metric).values()]),
        estimate([*queries.values(tested, "test", result.metric).values()], over_images(result, tested)),
        estimate([*queries.values(tested, "test", "top1").values()]),
        _difference(result, tested, against),
        (queries.mean(one[0] for one in reach), queries.mean(one[1] for one in reach)) if reach else None,
    )


def _single(metrics: Mapping[str, float] | None, metric: str) -> Estimate | None:
    return estimate([metrics[metric]]) if metrics else None


def _difference(
    result: StudyResult, tested: Mapping[int, queries.Row], others: Mapping[int, queries.Row]
) -> Difference | None:
    pairs = queries.differences(*(queries.values(some, "test", result.metric) for some in (tested, others)))
    return compared(pairs, paired(result, tested, others)) if pairs else None


def compared(pairs: Sequence[float], images: OverImages | None = None) -> Difference:
    """Return the mean of paired differences, its interval and its p value."""
    p = sign_flip_p(pairs)
    return Difference(*_over_seeds(pairs), len(pairs), p, p, values=tuple(pairs), images=images)
