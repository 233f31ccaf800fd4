"""The sections of the report that compare heads: at their chosen depth, by question, and at every depth."""

import math
from collections.abc import Sequence

from flax_augtl.runtime.markup import Markup, details, element, join, paragraph, table
from flax_augtl.study.report import queries
from flax_augtl.study.report.formatting import (
    METRICS,
    images_test,
    over_images,
    over_seeds,
    pairs_of,
    percent,
    points,
    probability,
    rates,
    seconds,
    significance,
)
from flax_augtl.study.report.images import ABSENT
from flax_augtl.study.report.tables import (
    Difference,
    Estimate,
    Line,
    by_depth,
    by_method,
    questions,
    reference,
    summary,
)
from flax_augtl.study.report.verdict import shown, shown_on_images
from flax_augtl.study.result import StudyResult

SHARE = 0.95  # Of the last validation accuracy, by which methods are timed.


def summary_section(result: StudyResult) -> Markup:
    """Return the table of all heads at their chosen depth; empty without tested heads."""
    lines = summary(result)
    if not lines:
        return Markup("")
    pairs = pairs_of(lines)
    return join(
        _lines(result, lines, f"Difference to {reference(result)}"),
        paragraph(
            f"{METRICS[result.metric].capitalize()} in %, mean over {pairs} paired seed{'s' if pairs != 1 else ''}, "
            "differences in percentage points, paired by seed and image. “90 % of its best” refers to validation "
            "accuracy.",
            "note",
        ),
        paragraph(
            join(
                element("b", "Seeds:"),
                " 95 % BCa bootstrap interval over seeds; with fewer than six seeds, "
                f"the value of each seed. p: sign-flip test. {significance(pairs)}. {_varied(result)}",
            ),
            "note",
        ),
        paragraph(join(element("b", "Images:"), " ", _of_images(lines)), "note"),
        paragraph(
            "Holm: p corrected for the number of rows by Holm's method."
            + (
                " (a) to (d): the networks of arXiv 1903.10150; DA and WA: of arXiv 1907.07844."
                if any(line.role for line in lines)
                else ""
            ),
            "note",
        ),
    )


def _of_images(lines: Sequence[Line]) -> str:
    over = [one.images for line in lines for one in (line.test, line.difference) if one and one.images]
    if not over:
        return f"{ABSENT}."
    tests = sorted({images_test(one) for one in over if not math.isnan(one.p)})
    return (
        f"95 % bootstrap interval over the {max(one.images for one in over)} test images"
        + (f"; p: {' or '.join(tests)}" if tests else "")
        + ". They show how much the result could differ on other images of the same kind, with these same networks; not "
        "how much it could differ after training again."
    )


def _varied(result: StudyResult) -> str:
    """Return sentences about what the seeds of a study vary, and so what its intervals mean."""
    if result.one_test_split:
        return (
            "A seed determines the training and validation split, the initial weights of new layers and the order of "
            "the data; the test split is the same for all. This shows how much the result could differ after "
            "training again, not on other images."
        )
    return (
        "A seed determines the training, validation and test split, the initial weights of new layers and the order "
        "of the data."
    )


def _lines(result: StudyResult, lines: Sequence[Line], against: str) -> Markup:
    header = [
        "Head",
        "Test",
        against,
        "p",
        "Holm",
        "Freeze depth",
        "Rate",
        "Steps",
        "Top-1",
        "Validation",
        "90 % of its best after",
    ]
    rows, marks, pairs = [], [], pairs_of(lines)
    for line in lines:
        rows.append([
            join(line.head, " ", element("small", line.role)), _mean(line.test, line.test.seeds if line.test and
                                                                     line.test.seeds < pairs else 0, pairs),
            *_compared(line.difference),
            line.depth or "–", rates(result, line.learning_rate, ", new "),
            "–" if line.steps is None else line.steps,
            percent(line.top1.mean if line.top1 else None), percent(line.validation.mean if line.validation else None),
            f"{line.reach[0]:.1f} epochs, {seconds(line.reach[1])}" if line.reach else "",
        ])  # fmt: skip
        marks.append(line.head == result.best and line.depth == result.winners[line.head]["depth"])
    return table(header, rows, marks)


def _compared(difference: Difference | None) -> list[object]:
    if difference is None:
        return ["", "", ""]
    over = difference.images
    return [
        _mean(difference),
        _both("", probability(difference.p), probability(over.p) if over else "–"),
        _both("", probability(difference.adjusted), probability(over.adjusted) if over else "–"),
    ]


def _mean(value: Estimate | None, seeds: int = 0, of: int = 0) -> object:
    """Return a mean with its intervals over seeds and images below; and the number of seeds if some are missing."""
    if value is None:
        return "–"
    mean = points(value.mean) if isinstance(value, Difference) else percent(value.mean)
    return _both(mean + (f", {seeds} of {of} seeds" if seeds else ""), over_seeds(value), over_images(value))


def _both(first: object, seeds: object, images: object) -> Markup:
    """Return a value with its counterparts over seeds and over test images below it."""
    return join(
        first or Markup("&nbsp;"),
        Markup("<br>"),
        element("small", join("seeds: ", seeds)),
        Markup("<br>"),
        element("small", join("images: ", images)),
    )


def questions_section(result: StudyResult) -> Markup:
    """Return the table of the questions that the tested heads answer; empty without any."""
    found = questions(result)
    if not found:
        return Markup("")
    return join(
        table(
            ["Question", "Compared", "Difference", "p", "Holm", "Shown"],
            [
                [
                    text,
                    f"{head} − {other}",
                    *_compared(difference),
                    _both("", shown(difference), shown_on_images(difference)),
                ]
                for text, head, other, difference in found
            ],
        ),
        paragraph(
            "Test accuracy of each head at the depth and learning rate that validation chose for it, "
            "paired by seed and image. Holm: p corrected for the number of questions. “images” tells "
            "whether these networks would differ on other images too; only “seeds” tells whether training "
            "again would give the same answer.",
            "note",
        ),
    )


def methods_section(result: StudyResult) -> Markup:
    """Return the table of the methods of fine-tuning, with what they cost; empty without any."""
    lines = by_method(result)
    if not lines:
        return Markup("")
    rows, pairs = [], pairs_of(lines)
    for line in lines:
        trials = list(queries.selected(result, line.head, line.depth).values())
        cost = queries.mean(row["seconds"] for row in trials) if trials else None
        reach = [found for row in trials if (found := queries.reached(result, row, SHARE, final=True))]
        rows.append([
            line.head, _mean(line.test, line.test.seeds if line.test and line.test.seeds < pairs else 0, pairs),
            *_compared(line.difference), line.depth, rates(result, line.learning_rate, ", new "),
            "–" if cost is None else seconds(cost),
            f"{queries.mean(one[0] for one in reach):.1f} epochs, {seconds(queries.mean(one[1] for one in reach))}"
            if reach else "–",
        ])  # fmt: skip
    return join(
        table(
            ["Head + method", "Test", "Difference to plain", "p", "Holm", "Freeze depth", "Rate", "A training",
             f"{100 * SHARE:.0f} % of its last after"],
            rows,
        ),
        paragraph(
            "Each method at the depth, learning rate and strength that validation chose for it; the number after its name "
            "is the factor of its usual strength. Differences are to the same head without a method, paired by seed and "
            "image. Holm: p corrected for the number of methods. “A training”: seconds of a selecting training, without "
            "the frozen layers.",
            "note",
        ),
    )  # fmt: skip


def depths_section(result: StudyResult) -> Markup:
    """Return the table of all heads and depths; empty if only winners were tested."""
    if not result.finals_by_depth:
        return Markup("")
    lines = by_depth(result)
    return details(
        f"{len(lines)} heads and depths",
        join(
            _lines(result, lines, f"Difference to {reference(result)} at that depth"),
            paragraph(
                "Do not choose a row by its test accuracy: that would make the test accuracy too optimistic. "
                "Validation accuracy is for choosing.",
                "note",
            ),
        ),
    )
