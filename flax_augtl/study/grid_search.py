"""The search over the grid of heads, depths and learning rates, and the trials that are retrained after it."""

from collections.abc import Mapping
from typing import Any

from flax_augtl.errors import UserError
from flax_augtl.study import selection
from flax_augtl.study.choices import ties
from flax_augtl.study.context import Context
from flax_augtl.study.grid import Grid, Trial
from flax_augtl.study.successive_halving import complete, halve
from flax_augtl.study.trials.worker import Work


def select(work: Work, part: tuple[int, int] | None) -> list[dict[str, Any]]:
    """Train the selecting trials, add learning rates while the best one is at an edge, and return the rows."""
    grid = work.context.grid
    if work.context.study.search == "halving":
        return halve(grid, work)
    tried = {group: list(grid.rates_of(group)) for group in grid.groups()}
    trials = [trial for group, rates in tried.items() for rate in rates for trial in grid.trials(group, rate)]
    if part is not None:
        number, count = part
        # Divide whole batches, so that trials are trained together as in one program.
        batches = work.trial_batches(trials)[number - 1 :: count]
        work.do([trial for batch in batches for trial in batch], wait=False)
        print(f"Part {number} of {count} is finished. When all parts are, give the same command without --cells.")
        return []
    rows = work.do(trials)
    while True:
        new = []
        for group, some in selection.by(rows, "head", "depth", "classifier_rate").items():
            rate = selection.widened(some, tried[group])
            if rate is not None:
                print(
                    f"      {grid.title(group)}: the best learning rate is the lowest or highest one; trying {rate:g} too"
                )
                tried[group].append(rate)
                new += grid.trials(group, rate)
        if not new:
            return rows
        rows += work.do(new)


def chosen_trials(context: Context, rows: list[dict[str, Any]]) -> tuple[str, list[Trial]]:
    """Return the best head, and the final trials of all winners."""
    if context.study.search == "halving":
        rows = complete(rows, len(context.grid.selection_seeds))
    heads = selection.winners(rows, lambda row: row["head"])
    if not heads:
        raise UserError(no_result(rows))
    heads = at_best_strength(heads, context.grid)
    best = max(heads, key=lambda name: heads[name]["score"])
    for sentence in ties(context, rows, best):
        print(sentence, flush=True)
    choices = [(name, choice) for name, choice in heads.items()]
    if context.study.finals == "depths":
        by_depth = selection.winners(rows, lambda row: (row["head"], row["depth"]))
        choices += [(name, choice) for (name, _), choice in by_depth.items() if choice not in heads.values()]
    return best, [
        Trial("final", name, choice["depth"], choice["classifier_rate"], choice["learning_rate"], seed, choice["steps"])
        for name, choice in choices
        for seed in context.grid.seeds
    ]


def at_best_strength(heads: Mapping[str, dict[str, Any]], grid: Grid) -> dict[str, dict[str, Any]]:
    """Return the choices of heads, with one strength of each method: the one that validation prefers."""
    best: dict[str, str] = {}
    for name, choice in heads.items():
        contestant = grid.rival(name).contestant
        if contestant not in best or choice["score"] > heads[best[contestant]]["score"]:
            best[contestant] = name
    return {name: choice for name, choice in heads.items() if name in best.values()}


def no_result(rows: list[dict[str, Any]]) -> str:
    """Return why no trial of a study has a result."""
    errors = sorted({row["error"] for row in rows if row["error"]})
    return "Every trial failed or diverged. " + (
        f"Errors: {'; '.join(errors)}." if errors else "Lower config.study.learning_rates."
    )
