"""What a search within a time budget left out, as sentences for its report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flax_augtl.study.budget_candidates import Candidate
from flax_augtl.study.budget_choices import choices
from flax_augtl.study.grid import Grid, Trial


def untried(grid: Grid, first: Mapping[str, Sequence[Candidate]]) -> list[str]:
    """Return which depths, heads and learning rates were not tried.

    Args:
      grid: what is compared.
      first: by depth, the candidates that were tried first.
    """
    found = []
    missed = [label for label, some in first.items() if not some]
    if missed:
        found.append(f"No time was left for the depth{'s' * (len(missed) > 1)} {', '.join(missed)}.")
    count = {
        label: sum(len(grid.rates_of(group)) for group in grid.groups() if grid.label(*group[:2]) == label)
        for label in first
    }
    fewer = [label for label, some in first.items() if 0 < len(some) < count[label]]
    if fewer:
        found.append(f"Not every head and learning rate was tried at {', '.join(fewer)}.")
    return found


def shortened(rows: Sequence[Mapping[str, Any]], length: int, total: int) -> list[str]:
    """Return which trainings were shorter than wanted.

    Args:
      rows: of the trials.
      length: the number of steps after which choices were made.
      total: the number of steps that the configuration asks for.
    """
    found = []
    if length < total:
        found.append(
            f"Choices were made after trainings of at most {length} steps; the configuration asks for {total}."
        )
    behind = [head for head, choice in choices(rows)[0].items() if choice["length"] < length]
    if behind:
        found.append(f"There was no time to train {', '.join(behind)} for {length} steps.")
    return found


def stopped(grid: Grid, trials: Iterable[Trial], total: int) -> list[str]:
    """Return which trainings were stopped for lack of time.

    Args:
      grid: what is compared.
      trials: that were stopped.
      total: the number of steps of a trial that gives none.
    """
    names = dict.fromkeys(
        f"{trial.head} at {grid.label(trial.head, trial.depth)} with the learning rate "
        f"{trial.learning_rate:g} ({trial.steps or total} steps)"
        for trial in trials
    )
    if not names:
        return []
    return [f"Stopped, because they would have taken longer than the time that was left: {', '.join(names)}."]
