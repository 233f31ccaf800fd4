"""Numbers of a study as text: percentages, points, intervals, and the table of the terminal."""

import math
from collections.abc import Sequence

from flax_augtl.runtime.text import columns, duration
from flax_augtl.study.report import queries
from flax_augtl.study.report.images import ABSENT, OverImages
from flax_augtl.study.report.tables import ENOUGH_SEEDS, Difference, Estimate, Line, reference, summary
from flax_augtl.study.result import StudyResult
from flax_augtl.training.statistics import smallest_p

METRICS = {"top1": "top-1 accuracy", "mean_per_class": "mean per-class accuracy"}


def percent(value: float | None) -> str:
    """Return a fraction as a percentage; "–" for None and NaN."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def points(value: float) -> str:
    """Return a difference of fractions as percentage points, with a sign."""
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def interval(value: Estimate) -> str:
    """Return the ends of an interval, with signs for a difference; "" without an interval."""
    if math.isnan(value.low):
        return ""
    show = points if isinstance(value, Difference) else percent
    return f"[{show(value.low)}, {show(value.high)}]"


def estimated(value: Estimate | None) -> str:
    """Return a mean and its interval; "–" for None."""
    if value is None:
        return "–"
    mean = points(value.mean) if isinstance(value, Difference) else percent(value.mean)
    return f"{mean} {interval(value)}".rstrip()


def over_seeds(value: Estimate) -> str:
    """Return the interval over seeds; below six seeds each value, and "one seed" for one."""
    if value.seeds == 1:
        return "one seed"
    show = points if isinstance(value, Difference) else percent
    return interval(value) or ", ".join(map(show, value.values))


def over_images(value: Estimate) -> str:
    """Return the interval over test images; "–" without one."""
    if value.images is None:
        return "–"
    show = points if isinstance(value, Difference) else percent
    return f"[{show(value.images.low)}, {show(value.images.high)}]"


def images_test(over: OverImages) -> str:
    """Return the name of the paired test over images."""
    return "exact McNemar test" if over.seeds == 1 else "paired sign-flip test over images"


def probability(value: float) -> str:
    """Return a p value with three decimals."""
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def seconds(value: float) -> str:
    """Return a duration as text: in seconds below two minutes, else as on a clock."""
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s" if value < 120 else duration(value)


def shortened(text: str, length: int) -> str:
    """Return a text, cut to a length."""
    return text if len(text) <= length else text[: length - 1] + "…"


def significance(pairs: int) -> str:
    """Return text about the smallest p that so many paired seeds can give."""
    least = f"With {pairs} paired seed{'s' if pairs != 1 else ''} p cannot be below {smallest_p(pairs):.3g}"
    return f"{least}, so no difference can be significant" if pairs < ENOUGH_SEEDS else least


def pairs_of(lines: Sequence[Line]) -> int:
    """Return the largest number of seeds that a line shares with the reference, or has if there is no other line."""
    return max(
        [line.difference.seeds for line in lines if line.difference]
        or [line.test.seeds for line in lines if line.test]
        or [0]
    )


def rates(result: StudyResult, learning_rate: float | None, between: str) -> str:
    """Return the learning rates of pretrained and of new layers; "–" for None."""
    if learning_rate is None:
        return "–"
    new = queries.new_layers_rate(result, learning_rate)
    return f"{learning_rate:g}" + ("" if new is None else f"{between}{new:g}")


def tested(line: Line, pairs: int) -> str:
    """Return the test result of a line, and its number of seeds if some are missing."""
    if line.test is None or line.test.seeds >= pairs:
        return estimated(line.test)
    return f"{estimated(line.test)}, {line.test.seeds} of {pairs} seeds"


def terminal_table(result: StudyResult) -> str:
    """Return the summary of a study as text of about 120 columns: a line for each head, and a legend."""
    lines, base = summary(result), reference(result)
    if not lines:
        return "Every trial failed or diverged: there is nothing to compare."
    rows: list[tuple[object, ...]] = [
        (
            "",
            "head",
            "depth",
            "rate",
            "steps",
            "test %",
            "top-1",
            f"minus {shortened(base or '–', 12)}",
            "p",
            "epochs",
            "seconds",
        )
    ]
    pairs = pairs_of(lines)
    for line in lines:
        rows.append((
            shortened(line.role.split(",")[0], 11), ("*" if line.head == result.best else "") + shortened(line.head, 18),
            line.depth or "–", rates(result, line.learning_rate, "/"),
            "–" if line.steps is None else line.steps, tested(line, pairs), percent(line.top1.mean if line.top1 else None),
            estimated(line.difference) if line.difference else "", probability(line.difference.p) if line.difference else "",
            f"{line.reach[0]:.1f}" if line.reach else "", f"{line.reach[1]:.1f}" if line.reach else "",
        ))  # fmt: skip
    return "\n".join(
        [
            f"Test split, {METRICS[result.metric]}"
            + (f"; * chosen by validation: {result.best}" if result.best else ""),
            columns(rows),
            f"Intervals: 95 % BCa bootstrap over seeds, with {ENOUGH_SEEDS} or more seeds. p: sign-flip test over paired "
            f"seeds, not",
            f"corrected for the number of comparisons. {significance(pairs)}.",
            "Rate: learning rate of pretrained layers / of new layers.",
            "Epochs and seconds: until a head first reached 90 % of its own best validation accuracy; computing the frozen",
            "layers is not included.",
            "",
            *_two_intervals(lines, base),
        ]
    )


def _two_intervals(lines: Sequence[Line], base: str | None) -> list[str]:
    """Return a table of the intervals over seeds and over test images, and what the two mean."""
    some = [(line, line.test) for line in lines if line.test]
    over = [
        estimate.images for line, test in some for estimate in (test, line.difference) if estimate and estimate.images
    ]
    if not over:
        return [f"{ABSENT[0].upper()}{ABSENT[1:]}."]
    against = f"minus {shortened(base or '–', 12)}"
    rows: list[tuple[object, ...]] = [
        ("head", "over seeds", "over test images", f"{against}: over seeds", "over test images", "p, images")
    ]
    for line, test in some:
        difference = line.difference
        rows.append(
            (
                shortened(line.head, 18),
                over_seeds(test),
                over_images(test),
                *(
                    (
                        over_seeds(difference),
                        over_images(difference),
                        probability(difference.images.p) if difference.images else "–",
                    )
                    if difference
                    else ("", "", "")
                ),
            )
        )
    tests = sorted({images_test(one) for one in over if not math.isnan(one.p)})
    return [
        columns(rows),
        f"Over seeds: how much the result could differ after training again; with fewer than {ENOUGH_SEEDS} seeds, "
        "the value of each seed.",
        f"Over test images: how much it could differ on {max(one.images for one in over)} other images, with these same "
        "networks;",
        "95 % bootstrap intervals" + (f"; p: {' or '.join(tests)}, not corrected." if tests else "."),
    ]
