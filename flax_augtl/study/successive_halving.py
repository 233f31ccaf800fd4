"""Successive halving: short trainings choose learning rates, few seeds choose depths, the rest is trained in full.

After Jamieson, Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016
(arXiv 1502.07943), with a third of the settings kept at each step.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from flax_augtl.study import selection
from flax_augtl.study.grid import Grid, Group, Trial
from flax_augtl.study.result import Row
from flax_augtl.study.selection import R
from flax_augtl.study.trials.worker import Work

KEPT = 3  # One in so many continues.
RUNGS = (9, 3)  # Learning rates are tried with such a part of the full length: a ninth, then a third.


def halve(grid: Grid, work: Work) -> list[dict[str, Any]]:
    """Return the rows of all selecting trials that were trained.

    First it chooses the learning rate of each head and depth, on the first seed: it tries all rates with a ninth of the
    steps, and the best third of them with a third of the steps. Then it chooses the depth of each head, at that rate:
    it trains all depths in full on a third of the seeds, and the best third of them (at least two) on all seeds.
    """
    rows: list[dict[str, Any]] = []
    total = len(work.context.schedule(Trial("select", *grid.groups()[0], grid.rates[0], grid.seeds[0]))[0])
    left = {group: list(grid.rates_of(group)) for group in grid.groups()}
    tried = {group: list(grid.rates_of(group)) for group in grid.groups()}

    def do(trials: list[Trial]) -> list[dict[str, Any]]:
        done = work.do(trials)
        rows.extend(done)
        return done

    def short(group: Group, rates: Iterable[float], part: int) -> list[Trial]:
        steps = max(1, math.ceil(total / part))
        return [Trial("select", *group, rate, grid.selection_seeds[0], steps) for rate in rates]

    for rung, part in enumerate(RUNGS):
        done = do([trial for group, rates in left.items() if len(rates) > 1 for trial in short(group, rates, part)])
        while rung == 0:
            grown = []
            for group, some in _by_group(done).items():
                rate = selection.widened(some, tried[group])
                if rate is not None:
                    print(
                        f"      {grid.title(group)}: the best learning rate is the lowest or highest one; trying "
                        f"{rate:g} too"
                    )
                    tried[group].append(rate)
                    grown += short(group, [rate], part)
            if not grown:
                break
            done += do(grown)
        for group, some in _by_group(done).items():
            left[group] = _best(some, max(1, math.ceil(len(some) / KEPT)) if rung + 1 < len(RUNGS) else 1)
    few = grid.selection_seeds[: max(1, math.ceil(len(grid.selection_seeds) / KEPT))]
    rates: dict[Group, float] = {group: some[0] for group, some in left.items() if some}
    done = do([Trial("select", *group, rate, seed) for group, rate in rates.items() for seed in few])
    lasting: list[Group] = []
    for head in grid.heads:
        groups = [group for group in rates if group[0] == head]
        scored = [(selection.score([row for row in done if _group(row) == group]), group) for group in groups]
        scored = sorted(((score, group) for score, group in scored if score is not None), reverse=True)
        lasting += [group for _, group in scored[: max(2, math.ceil(len(scored) / KEPT))]]
    do(
        [
            Trial("select", *group, rates[group], seed)
            for group in lasting
            for seed in grid.selection_seeds
            if seed not in few
        ]
    )
    return rows


def complete(rows: Sequence[R], seeds: int) -> list[R]:
    """Return the rows among which a winner may be chosen: settings that were trained in full on all seeds."""
    longest = max((row["steps"] for row in rows), default=0)
    groups = selection.by(
        [row for row in rows if row["steps"] == longest], "head", "depth", "classifier_rate", "learning_rate"
    )
    return [row for some in groups.values() if len(some) == seeds for row in some]


def _group(row: Row) -> Group:
    return row["head"], row["depth"], row["classifier_rate"]


def _by_group(rows: Sequence[R]) -> dict[Group, list[R]]:
    return selection.by(rows, "head", "depth", "classifier_rate")


def _best(rows: Sequence[Row], count: int) -> list[float]:
    scored = [(selection.score([row]), row["learning_rate"]) for row in rows]
    scored = sorted(((score, rate) for score, rate in scored if score is not None), reverse=True)
    return [rate for _, rate in scored[:count]]
