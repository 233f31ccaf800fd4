"""A study within a time budget: which activations are kept, and the search."""

import dataclasses
import time

from flax_augtl.errors import UserError
from flax_augtl.features.activations import Activations
from flax_augtl.features.cache import fill
from flax_augtl.features.views import Rows, training_rows
from flax_augtl.study.budget import PASSES, TRAININGS, Budget
from flax_augtl.study.budget_choices import Found, found_before
from flax_augtl.study.budget_plan import describe, plan_of
from flax_augtl.study.budget_search import Search
from flax_augtl.study.caches import TrainingCache, needed
from flax_augtl.study.context import Context
from flax_augtl.study.leases import Leases
from flax_augtl.study.trials.cost import Timing
from flax_augtl.study.trials.time_estimate import TimeEstimate
from flax_augtl.study.trials.worker import Work

SETTLED_SECONDS = 60.0


def rows_of(context: Context) -> Rows:
    """Return the rows of all training and validation images of a study."""
    return training_rows(list(context.datasets.values()), context.preprocessing, context.config.data)


def reopen(cache: TrainingCache, budget: Budget) -> None:
    """Give a cache the views and depths that an earlier start chose."""
    if budget.views:
        cache.context = cache.context.with_views(budget.views)
        cache.rows = rows_of(cache.context)
    if budget.depths:
        cache.names = _names(cache.context, budget)


def _names(context: Context, budget: Budget) -> list[str]:
    grid = context.grid
    return needed(context, [group for group in grid.groups() if grid.label(*group[:2]) in budget.depths])


def prepare(
    cache: TrainingCache, budget: Budget, activations: Activations, timed: Timing, *, views_given: bool
) -> tuple[Activations, str]:
    """Choose how many views are kept, and of which layers; return the activations to fill, and the plan as text.

    Args:
      cache: of the training and validation images; it is changed.
      budget: of time.
      activations: that the cache has so far.
      timed: what was timed.
      views_given: whether the user asked for a number of views.

    Raises:
      TooShort: the budget is too short.
    """
    context, asked = cache.context, cache.rows.views
    views = asked
    if activations.store.arrays:
        views = budget.choose_views(len(cache.rows.ids), cache.tests, timed.row_seconds, asked, given=views_given)
    if views < asked:
        context = cache.context = context.with_views(views)
        cache.rows = rows_of(context)
        activations = cache.open()
    budget.views = views
    search = _search(cache, budget, activations, timed)
    if not budget.planned:
        plan = plan_of(search, passes=_passes(activations, timed))
        tried = [label for label, some in plan.first.items() if some]
        spare = [label for label in plan.first if label not in tried][:1]  # Perhaps there is time for one more.
        budget.depths = list(dict.fromkeys([*budget.depths, *tried, *spare]))
        budget.planned = True
        cache.names = _names(context, budget)
        activations = cache.open()
    kept = sum(array.nbytes for array in activations.store.arrays.values()) / 1e9
    images = f"{len(cache.rows.ids)} images in {cache.rows.views + 1} views ({kept:.2f} GB kept)"
    search = _search(cache, budget, activations, timed)
    return activations, describe(search, passes=_passes(activations, timed), images=images)


def _passes(activations: Activations, timed: Timing) -> float:
    """Return the seconds that computing the missing activations takes."""
    return timed.row_seconds * sum(stop - first for first, stop in activations.store.missing())


def _search(
    cache: TrainingCache, budget: Budget, activations: Activations, timed: Timing, leases: Leases | None = None
) -> Search:
    times = TimeEstimate(cache.context, timed, budget.slowness)
    work = Work(cache.context, activations, cache.folder, leases, times, left=budget.left)
    return Search(
        cache.context.grid,
        work,
        budget,
        cache.context.config.freeze,
        reserved=budget.report() + cache.tests * budget.slowness * timed.row_seconds,
    )


class _Watch:
    """Warns once if the pass over the images will take most of the remaining budget, or more."""

    def __init__(self, budget: Budget):
        self._budget, self._warned, self._begun = budget, False, time.monotonic()

    def __call__(self, left: float) -> None:
        # The first images are slow, because they wait for compilation.
        settled = time.monotonic() - self._begun >= SETTLED_SECONDS
        if self._warned or not settled or left <= self._budget.left() - self._budget.report():
            return
        self._warned = True
        print(
            "Warning: the computer is much slower than when it was timed, perhaps because other programs run. This pass "
            f"alone will take longer than what is left of the {self._budget.seconds / 60:g} minutes. Ctrl-C stops the "
            "study; the same command resumes it, and config.study.minutes can be raised.",
            flush=True,
        )


def select(
    cache: TrainingCache, budget: Budget, activations: Activations, timed: Timing, leases: Leases
) -> tuple[Work, Found]:
    """Fill the cache and search; return the work, and what was found.

    Raises:
      UserError: another program works on the study.
    """
    if not leases.take("budget"):
        raise UserError(
            f"Another program works on the study in {cache.folder}. A study with a time budget is done by one "
            "program: wait for it, or choose another --workdir."
        )
    expected, begun = _passes(activations, timed), time.monotonic()
    with budget.part(PASSES):
        activations = fill(activations, leases, "train", cache.open, cache.folder, _Watch(budget))
    if expected:
        budget.slowness = max(1.0, (time.monotonic() - begun) / expected)
    search = _search(cache, budget, activations, timed, leases)
    with budget.part(TRAININGS):
        found = found_before(search.work, budget) or search.run()
        if found.chosen:
            budget.chosen = {"cells": [dataclasses.asdict(trial) for trial in found.trials], "left_out": found.left_out}
    return search.work, found
