"""The plan of a study with a time budget, as text."""

from collections.abc import Sequence

from flax_augtl.runtime.text import columns, duration
from flax_augtl.study.budget_search import LONGER, Search
from flax_augtl.study.grid import Trial


class _Planned(Search):
    """A search that trains nothing, but counts the time that it would take."""

    taken = 0.0

    def _do(self, trials: Sequence[Trial]) -> None:
        self.taken += self.work.expected(trials)

    def _left(self) -> float:
        return super()._left() - self.taken


def plan_of(search: Search, *, passes: float) -> _Planned:
    """Return a copy of a search that tried all depths without training anything.

    Args:
      search: that has not begun.
      passes: seconds that the passes over training and validation images take.
    """
    plan = _Planned(search.grid, search.work, search.budget, search.own, reserved=passes + search.reserved)
    plan.downwards()
    return plan


def describe(search: Search, *, passes: float, images: str) -> str:
    """Return the plan of a search as text.

    Args:
      search: that has not begun; nothing is trained.
      passes: seconds that the passes over training and validation images take.
      images: describes these images.
    """
    grid, work, budget = search.grid, search.work, search.budget
    plan = plan_of(search, passes=passes)
    rows: list[tuple[str, ...]] = [("depth", "seconds a step", "first trainings", "(estimated)")]
    for label, some in plan.first.items():
        groups = [group for group in grid.groups() if grid.label(*group[:2]) == label]
        step = max(work.times.timed.trial_seconds[" ".join(group)] for group in groups) / plan.total
        trials = [trial for each in some for trial in plan.trials(each, plan.shortest)]
        said = (str(len(trials)), duration(work.expected(trials))) if trials else ("no time", "")
        rows.append((label, f"{step:.3f}", *said))
    more = max(0.0, budget.left() - plan.reserved - plan.taken)
    lines = [
        columns(rows, align="<>>>", least=(14, 15, 16, 12), gap=" "),
        f"First trainings have {plan.shortest} steps. The best third of each head then trains {LONGER} times as long, "
        f"and so on up to {plan.total} steps,",
        "or longer while validation still improves. The best of each head then trains on training and validation data, "
        "and is tested.",
        f"{images} {duration(passes)}, first trainings {duration(plan.taken)}, longer and final "
        f"trainings up to {duration(more)}, test images and report {duration(search.reserved)}:",
        f"at most about {duration(passes + plan.taken + more + search.reserved)} of the {duration(max(budget.left(), 0.0))} "
        f"that are left of {budget.seconds / 60:g} minutes (config.study.minutes).",
    ]
    if missed := [label for label, some in plan.first.items() if not some]:
        lines.append(
            f"There is no time for {', '.join(missed)}. Raise config.study.minutes to try more depths; 0 sets no limit."
        )
    return "\n".join(lines)
