"""The results of a study in sentences, and how certain they are."""

import math

from flax_augtl.study.report import queries
from flax_augtl.study.report.formatting import (
    METRICS,
    images_test,
    interval,
    over_images,
    over_seeds,
    percent,
    points,
    probability,
    rates,
    seconds,
)
from flax_augtl.study.report.images import ABSENT
from flax_augtl.study.report.tables import ENOUGH_SEEDS, Difference, Estimate, Line, questions, reference, summary
from flax_augtl.study.result import StudyResult
from flax_augtl.study.selection import still_rising
from flax_augtl.training.statistics import smallest_p

LEVEL = 0.05


def verdict(result: StudyResult) -> list[str]:
    """Return sentences about the chosen head and depth, by how much they are better, and how certain that is."""
    lines = {line.head: line for line in summary(result)}
    if result.best not in lines:
        return ["There is no result: every trial failed or diverged.", *_failures(result)]
    best = lines[result.best]
    return [
        _choice(result, best),
        *result.choices,
        *_comparison(result, best, lines),
        *_depth(result, best.head),
        *rising(result),
        *result.left_out,
        *_questions(result),
        *_convergence(best, lines.get(reference(result) or "")),
        *_leep(result, best),
        *_leaks(result),
        *_failures(result),
    ]


def sure(difference: Difference, *, planned: bool = False) -> str:
    """Return in words what a paired difference shows.

    Args:
      difference: of test results.
      planned: whether validation singled out this one comparison, so that no correction is needed.
    """
    if difference.seeds < ENOUGH_SEEDS:
        return (
            f"{difference.seeds} paired seed{'s are' if difference.seeds != 1 else ' is'} too few for a significant "
            f"result (p cannot be below {smallest_p(difference.seeds):.3g})"
        )
    if difference.p >= LEVEL:
        return f"not significant with {difference.seeds} seeds (p = {probability(difference.p)})"
    if planned:
        return f"p = {probability(difference.p)} with {difference.seeds} seeds"
    if difference.adjusted >= LEVEL:
        return (
            f"p = {probability(difference.p)}, but {probability(difference.adjusted)} when corrected for the "
            "number of comparisons (Holm): suggestive, not significant"
        )
    return (
        f"p = {probability(difference.p)}, and {probability(difference.adjusted)} when corrected for the number of "
        "comparisons (Holm)"
    )


def shown(difference: Difference) -> str:
    """Return in a few words what a paired difference shows over seeds, after correction."""
    if difference.seeds < ENOUGH_SEEDS:
        return "too few seeds"
    if difference.p >= LEVEL:
        return "no difference"
    return "suggestive" if difference.adjusted >= LEVEL else "better" if difference.mean > 0 else "worse"


def shown_on_images(difference: Difference) -> str:
    """Return in a few words what a paired difference shows over test images, after correction."""
    over = difference.images
    if over is None:
        return "not known"
    if over.p >= LEVEL:
        return "no difference"
    return "suggestive" if over.adjusted >= LEVEL else "better" if difference.mean > 0 else "worse"


def _choice(result: StudyResult, best: Line) -> str:
    depth = {"none": "with every layer group trained", "all": "with everything below the new layers frozen (all)"}.get(
        best.depth, f"frozen up to and including {best.depth}"
    )
    how = f"learning rate {rates(result, best.learning_rate, ', of new layers ')}, {best.steps} steps"
    if best.learning_rate is None:
        how = "computed in closed form"
    text = f"Validation chose the head {best.head}, {depth} ({how})."
    if best.test is None:
        return text + " It was not tested."
    return (
        f"{text} On the test split it reaches {percent(best.test.mean)} % {METRICS[result.metric]} "
        f"({_how_sure(best.test)})."
    )


def _how_sure(value: Estimate) -> str:
    """Return how uncertain a mean is: over seeds and over test images."""
    if value.seeds == 1:
        seeds = "one seed, so how much another seed would differ is not known"
    elif value.seeds < ENOUGH_SEEDS:
        seeds = f"{value.seeds} seeds: {over_seeds(value)}, too few for an interval over seeds"
    else:
        seeds = f"95 % interval over {value.seeds} seeds {interval(value)}"
    if value.images is None:
        return f"{seeds}; {ABSENT}"
    return f"{seeds}; 95 % interval over the {value.images.images} test images {over_images(value)}"


def _on_images(difference: Difference, *, planned: bool = False) -> str:
    """Return a sentence about what a paired difference shows over test images."""
    over = difference.images
    if over is None:
        return f" There is {ABSENT}."
    text = (
        f" Over the {over.images} test images, for these networks: {over_images(difference)}, p = {probability(over.p)}"
    )
    corrected = "" if planned or over.p >= LEVEL else f", {probability(over.adjusted)} corrected (Holm)"
    return f"{text}{corrected} ({images_test(over)})."


def _comparison(result: StudyResult, best: Line, lines: dict[str, Line]) -> list[str]:
    base = reference(result)
    others = [
        (line.head, line.difference) for line in lines.values() if line.head in result.winners and line.difference
    ]
    if best.head != base:
        if not best.difference:
            return []
        return [
            f"On the test split, {best.head} is at {_difference(best.difference)} compared with "
            f"{base}: {sure(best.difference, planned=True)}."
            f"{_on_images(best.difference, planned=True)}"
        ]
    if not others:
        return (
            ["No other head was tested."]
            if len(result.winners) > 1
            else ["It was the only head, so there is nothing to compare it with."]
        )
    closest, difference = max(others, key=lambda other: other[1].mean)
    return [
        f"The best of the other heads on the test split is {closest}, at {_difference(difference)} "
        f"against {base}: {sure(difference)}.{_on_images(difference)}"
    ]


def _difference(value: Difference) -> str:
    """Return a difference in points, with its interval over seeds or the values of each seed."""
    several = f" (by seed: {over_seeds(value)})" if 1 < value.seeds < ENOUGH_SEEDS else f" {interval(value)}".rstrip()
    return f"{points(value.mean)} points{several}"


def _depth(result: StudyResult, best: str) -> list[str]:
    """Return sentences about how the chosen depth compares with the others on validation.

    Depths are compared by the longest trainings that both have. The standard error is that of paired differences.
    """
    chosen = result.winners[best]["depth"]
    lengths = {
        depth: found for depth in queries.depths(result, best) if (found := queries.lengths(result, best, depth))
    }
    if len(lengths) < 2 or chosen not in lengths:
        return [f"{best} was tried at one freeze depth only, so depths cannot be compared."]
    worse: dict[str, float] = {}  # By depth, how many points it is behind the chosen one.
    steps: dict[str, int] = {}
    equal, apart, seeds = [], [], 0
    for depth, found in lengths.items():
        if depth == chosen:
            continue
        if not found & lengths[chosen]:
            apart.append(depth)
            continue
        steps[depth] = max(found & lengths[chosen])
        mine, others = (
            queries.values(queries.selected(result, best, one, steps[depth]), "val", result.metric)
            for one in (chosen, depth)
        )
        pairs = queries.differences(mine, others)
        if not pairs:
            del steps[depth]
            continue
        worse[depth], seeds = queries.mean(pairs), max(seeds, len(mine))
        if len(pairs) > 1:
            spread = math.sqrt(sum((one - worse[depth]) ** 2 for one in pairs) / (len(pairs) - 1) / len(pairs))
            if worse[depth] <= spread:
                equal.append(depth)
    unlike = (
        [
            f"{best} was not trained equally long at {chosen} and at {', '.join(apart)}, so these depths are not "
            "compared."
        ]
        if apart
        else []
    )
    if not worse:
        return unlike
    last = max(worse, key=lambda depth: worse[depth])
    text = (
        f"On validation, {best} at depth {chosen} is at {points(worse[last])} points compared with the worst depth "
        f"({last}), both after {steps[last]} steps"
    )
    if seeds < ENOUGH_SEEDS:
        count = "one seed" if seeds == 1 else f"{seeds} seeds"
        return [f"{text}. With {count} it is not known which differences between depths are more than chance.", *unlike]
    if not equal:
        return [f"{text}, and no other depth is within one standard error of it.", *unlike]
    deepest = max(equal, key=result.depths.index)
    cheaper = (
        f" Of these, freezing up to {deepest} takes the least computing time."
        if result.depths.index(deepest) > result.depths.index(chosen)
        else ""
    )
    return [f"{text}. Within one standard error of it: {', '.join(equal)}.{cheaper}", *unlike]


def rising(result: StudyResult) -> list[str]:
    """Return a sentence about trainings that were still improving, of the winners and of the best head's depths."""
    pairs = [(head, winner["depth"]) for head, winner in result.winners.items()]
    pairs += [(result.best, depth) for depth in queries.depths(result, result.best)] if result.best else []
    found = []
    for head, depth in dict.fromkeys(pairs):
        rows = [*queries.selected(result, head, depth).values()]
        if still_rising(rows):
            found.append(f"{head} at {depth} ({rows[0]['steps']} steps)")
    if not found:
        return []
    return [
        f"Validation was still improving when the training ended: {', '.join(found)}. Longer trainings may be "
        "better, and may change the ranking: raise config.epochs or config.steps"
        + (", and config.study.minutes." if result.account else ".")
    ]


def _questions(result: StudyResult) -> list[str]:
    found = [row for row in questions(result) if row[3].seeds >= ENOUGH_SEEDS]
    if not found:
        return []
    shown = [
        f"{head} against {other} {points(difference.mean)} points"
        for _, head, other, difference in found
        if difference.adjusted < LEVEL
    ]
    count = f"Of the {len(found)} questions below" if len(found) > 1 else "Of the one question below"
    if not shown:
        return [
            f"{count}, none has a significant answer after correction for their number (Holm); with these seeds "
            f"p cannot be below {min(1.0, smallest_p(found[0][3].seeds) * len(found)):.2g} here."
        ]
    return [f"{count}, these have a significant answer after correction for their number (Holm): {'; '.join(shown)}."]


def _convergence(best: Line, base: Line | None) -> list[str]:
    if not best.reach:
        return []
    text = (
        f"{best.head} reached 90 % of its own best validation accuracy after {best.reach[0]:.1f} epochs "
        f"({seconds(best.reach[1])})"
    )
    if base is not None and base.head != best.head and base.reach:
        text += f", {base.head} after {base.reach[0]:.1f} ({seconds(base.reach[1])})"
    return [text + ". This does not include computing the frozen layers."]


def _leep(result: StudyResult, best: Line) -> list[str]:
    test = next((line.test for line in summary(result) if line.head not in result.winners and line.test), None)
    if test is None or best.test is None:
        return []
    return [
        f"Without any training, LEEP reaches {percent(test.mean)} % ({_how_sure(test)}). It estimates "
        "from the training images how likely each target class is, given the source class that the pretrained network "
        "predicts."
    ]


def _leaks(result: StudyResult) -> list[str]:
    return (
        [
            "The source and target tasks overlap, which gives heads that keep the classification layer an advantage: see "
            "Leakage below."
        ]
        if result.leakage
        else []
    )


def _failures(result: StudyResult) -> list[str]:
    errors = sum(bool(row["error"]) for row in result.rows)
    diverged = sum(bool(row["diverged"]) and not row["error"] for row in result.rows)
    parts = [f"{diverged} diverged"] * bool(diverged) + [f"{errors} failed"] * bool(errors)
    missing = [head for head in queries.heads(result) if head not in result.winners]
    return ([f"Of {len(result.rows)} trials {' and '.join(parts)}; they are listed below."] if parts else []) + (
        [f"These heads have no result: {', '.join(missing)}."] if missing else []
    )
