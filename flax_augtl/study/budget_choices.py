"""What a search within a time budget chose, and the final trials for which there is time."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flax_augtl.study import selection
from flax_augtl.study.budget import Budget
from flax_augtl.study.grid import Grid, Group, Trial
from flax_augtl.study.result import Row
from flax_augtl.study.trials.worker import Work


@dataclasses.dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
      trials: that were trained to choose.
      rows: of these trials.
      chosen: for each head with a result, its choice as in `selection.winners`, and the `length` of the trainings
        among which it was made.
      best: the best head; None without a result.
      left_out: sentences about what there was no time for.
    """

    trials: list[Trial]
    rows: list[dict[str, Any]]
    chosen: dict[str, dict[str, Any]]
    best: str | None
    left_out: list[str]


def choices(rows: Sequence[Row]) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Return what validation chose for each head, and the best head.

    A head's choice is made among trainings of one length: the longest for which the best of the shorter trainings was
    trained, too. If a shorter training of the same choice was better, its length is chosen. Heads are compared by the
    longest trainings that all of them have.
    """
    by_head = {head: _choice(some) for head, some in selection.by(rows, "head").items()}
    found = {head: choice for head, choice in by_head.items() if choice is not None}
    if not found:
        return {}, None
    lengths = [
        {
            row["steps"]
            for row in rows
            if row["head"] == head and row["val"] is not None and row["steps"] <= choice["length"]
        }
        for head, choice in found.items()
    ]
    at = max(set.intersection(*lengths), default=None)
    scores = {head: choice["score"] for head, choice in found.items()}
    if at is not None:
        alike = selection.winners([row for row in rows if row["steps"] == at], _head)
        scores = {head: alike[head]["score"] for head in found if head in alike} or scores
    return found, max(scores, key=lambda head: scores[head])


def _choice(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Return the choice among the rows of one head; None if every training failed."""
    chosen, length = None, 0
    for steps in sorted({row["steps"] for row in rows if row["val"] is not None}):
        if chosen is not None and not any(row["steps"] == steps for row in _alike(rows, chosen)):
            continue  # The choice so far was not trained for so long.
        best = selection.winners([row for row in rows if row["steps"] == steps], _head)
        if best:
            (chosen,), length = best.values(), steps
    if chosen is None:
        return None
    (found,) = selection.winners(
        [row for row in _alike(rows, chosen) if row["steps"] in range(length + 1)], _head
    ).values()
    return {**found, "length": length}


def _alike(rows: Sequence[Row], choice: Mapping[str, Any]) -> list[Row]:
    """Return the rows that have the settings of a choice and any length."""
    return [
        row
        for row in rows
        if row["val"] is not None
        and all(row[name] == choice[name] for name in ("depth", "classifier_rate", "learning_rate"))
    ]


def found_before(work: Work, budget: Budget) -> Found | None:
    """Return what the search of an earlier start found with this whole budget; None if there was none.

    Another search would have less time than the earlier one, and might choose differently.
    """
    if budget.chosen is None:
        return None
    try:
        trials = [Trial(**fields) for fields in budget.chosen["cells"]]
        left_out = [str(sentence) for sentence in budget.chosen["left_out"]]
        groups = set(work.context.grid.groups())
        rows = [row for trial in trials if trial.group in groups and (row := work.row(trial)) is not None]
    except (KeyError, TypeError, ValueError):
        return None  # This program did not write it: the search starts again, with the existing rows.
    if len(rows) < len(trials):
        return None
    return Found(trials, rows, *choices(rows), left_out)


def final_trials(grid: Grid, found: Found, *, by_depth: bool) -> list[Trial]:
    """Return the final trials, with those of the best head first.

    Args:
      grid: what is compared.
      found: what the search found.
      by_depth: whether to include the best of each head and depth, and not only of each head.
    """
    choices = sorted(found.chosen.items(), key=lambda item: item[0] != found.best)
    if by_depth:
        by: dict[tuple[str, str], dict[str, Any]] = {}
        rows = [row for row in found.rows if row["val"] is not None]
        for length in sorted({row["steps"] for row in rows}):
            by |= selection.winners(
                [row for row in rows if row["steps"] == length], lambda row: (row["head"], row["depth"])
            )
        choices += [
            (head, choice) for (head, depth), choice in by.items() if depth != found.chosen.get(head, {}).get("depth")
        ]
    return [
        Trial("final", head, choice["depth"], choice["classifier_rate"], choice["learning_rate"], seed, choice["steps"])
        for head, choice in choices
        for seed in grid.seeds
    ]


def train_finals(work: Work, budget: Budget, trials: Sequence[Trial]) -> tuple[list[dict[str, Any]], list[str]]:
    """Train final trials while there is time, but those of the first head in any case.

    Returns:
      The rows, and sentences about the trials for which there was no time.
    """
    rows, missing = [], []
    settings: dict[tuple[Group, float, int | None], list[Trial]] = {}
    for trial in trials:
        settings.setdefault((trial.group, trial.learning_rate, trial.steps), []).append(trial)
    for (group, *_), some in settings.items():
        if rows and work.expected(some) > budget.left() - budget.report():
            missing.append(f"{group[0]} at {work.context.grid.label(*group[:2])}")
        else:
            rows += work.do(some)
            budget.save()
    return rows, [f"No time was left to train and test: {', '.join(missing)}."] if missing else []


def _head(row: Row) -> str:
    return row["head"]
