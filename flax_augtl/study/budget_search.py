"""The search within a time budget: from depth `all` downwards, with short trainings first, then longer ones.

The best third continues with three times as many steps. A choice is only made among trainings of one length.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flax_augtl.study import selection
from flax_augtl.study.budget import Budget
from flax_augtl.study.budget_candidates import Candidate, group_of, order_of
from flax_augtl.study.budget_choices import Found, choices
from flax_augtl.study.budget_notes import shortened, stopped, untried
from flax_augtl.study.grid import Grid, Group, Trial
from flax_augtl.study.trials.worker import Work

KEPT = 3  # One in so many candidates continues.
LONGER = 3  # Each round trains so many times longer than the one before.
SHORTEST = 9  # The first trainings have such a part of the full length.
LENGTHENED = 4  # A training that still improves is lengthened to at most so many times the full length.
SHARE = 0.5  # Largest share of the remaining time for depths after the first two, or for second choices.
CHEAP = 0.1  # Share of the remaining time that a depth may always take.
FEWER = (None, 3, 1)  # Numbers of learning rates to try at a depth, until one fits the time; None: all of them.
OVERRUN = 0.05  # A training that has begun may exceed its time by this share of the budget.
WIDENED = 2  # How often a learning rate is added if the lowest or highest one is the best.


class Search:
    """A search in progress."""

    def __init__(self, grid: Grid, work: Work, budget: Budget, own: str, *, reserved: float):
        """Prepare a search.

        Args:
          grid: what is compared.
          work: trains the trials.
          budget: of the study.
          own: `config.freeze`.
          reserved: seconds that are needed after the search, besides those of the final trials.
        """
        self.grid, self.work, self.budget, self.own, self.reserved = grid, work, budget, own, reserved
        first = Trial("select", *grid.groups()[0], grid.rates[0], grid.seeds[0])
        self.total = len(work.context.schedule(first)[0])
        self.shortest = max(1, math.ceil(self.total / SHORTEST))
        self.trained: list[Trial] = []
        self.rows: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        self.stopped: dict[Trial, None] = {}  # For lack of time, in their order.
        self.first: dict[str, list[Candidate]] = {}  # By depth, in their order: the candidates that were tried first.

    def run(self) -> Found:
        """Search while there is time."""
        standing = self.downwards()
        length = self.shortest
        while longer := self._longer(length, standing):
            done = self._continue(standing, length, longer)
            if not done:
                break
            standing, length = standing | done, longer
        self._refine()
        self._compare(length)
        self.left_out += shortened(self.rows, length, self.total)
        self.left_out += stopped(self.grid, self.stopped, self.total)
        return Found(self.trained, self.rows, *choices(self.rows), self.left_out)

    def trials(self, candidate: Candidate, length: int, stage: str = "select") -> list[Trial]:
        """Return the trials of a candidate at a length, one for each seed; names omit the full length."""
        steps = None if length == self.total and stage == "select" else length
        seeds = self.grid.selection_seeds if stage == "select" else self.grid.seeds
        return [Trial(stage, *candidate.group, candidate.rate, seed, steps) for seed in seeds]

    def _do(self, trials: Sequence[Trial]) -> None:
        new = [trial for trial in dict.fromkeys(trials) if trial not in self.trained]
        known = any(row["val"] is not None for row in self.rows)  # Otherwise there would be nothing to choose from.
        rows = self.work.do(new, room=functools.partial(self._room_of, new) if known else None)
        done = {row["cell"] for row in rows}
        self.rows += rows
        self.trained += [trial for trial in new if trial.name in done]
        self.stopped |= {trial: None for trial in new if trial.name not in done}
        self.budget.save()

    def _room_of(self, trials: Sequence[Trial]) -> float:
        """Return the seconds left for trials that have begun, if their final trials are as long."""
        candidates = {Candidate(trial.group, trial.learning_rate) for trial in trials}
        length = max(trial.steps or self.total for trial in trials)
        return self._room(candidates, length, compilation=False) + OVERRUN * self.budget.seconds

    def _left(self) -> float:
        """Return the seconds left for trainings."""
        return self.budget.left() - self.reserved

    def _room(self, candidates: Iterable[Candidate], length: int, **more: bool) -> float:
        """Return the seconds left for choosing, if the final trials of these candidates have some length."""
        return self._left() - self._slowest(candidates, length, "final", **more)

    def _slowest(self, candidates: Iterable[Candidate], length: int, stage: str, **more: bool) -> float:
        """Return the seconds of one training of each head, by its slowest candidate.

        If the final trials of all heads would take more than half of the remaining time, only one head's are counted.
        """
        slowest: dict[str, float] = {}
        for candidate in candidates:
            seconds = self.work.expected(self.trials(candidate, length, stage), **more)
            slowest[candidate.group[0]] = max(seconds, slowest.get(candidate.group[0], 0.0))
        together = sum(slowest.values())
        whole = stage == "select" or together <= SHARE * self._left()
        return together if whole else max(slowest.values(), default=0.0)

    def downwards(self) -> dict[str, list[Candidate]]:
        """Try one depth after the other with the shortest trainings; return each head's candidates, best first."""
        tried: list[Candidate] = []
        beginning = self._left()
        for position, label in enumerate(order_of(self.grid, self.own)):
            groups = [group for group in self.grid.groups() if self.grid.label(*group[:2]) == label]
            wanted: list[Candidate] = []
            # Without kept activations of a depth, every step would compute the frozen layers.
            kept = not self.budget.planned or label in self.budget.depths
            for count in FEWER if kept else ():
                some = [Candidate(group, rate) for group in groups for rate in self._rates(group, count)]
                # The first two depths are always tried. All else must leave time for longer trainings.
                if self._seconds(some, self.shortest) <= self._for_depth(
                    [*tried, *some], beginning, least=position == 0 or position == 1 and count == 1
                ):
                    wanted = some
                    break
            if not wanted and position < 2 and kept:
                wanted = self._that_fit(groups, tried, always=position == 0)
            self.first[label] = wanted
            if not wanted:
                continue
            self._do([trial for candidate in wanted for trial in self.trials(candidate, self.shortest)])
            tried += wanted
            if len(wanted) == sum(len(self.grid.rates_of(group)) for group in groups):
                tried += self._widened(groups)
        self.left_out += untried(self.grid, self.first)
        return {
            head: self._ranked([each for each in tried if each.group[0] == head], self.shortest)
            for head in self.grid.heads
        }

    def _for_depth(self, candidates: Sequence[Candidate], beginning: float, *, least: bool) -> float:
        """Return the seconds that the first trainings of a depth may take.

        Args:
          candidates: all candidates that will have been tried then.
          beginning: seconds that were left for trainings at the beginning.
          least: whether final trials as short as these are enough; otherwise there must be time for longer ones.
        """
        if least:
            return self._room(candidates, self.shortest, compilation=False)
        longer = min(LONGER * self.shortest, self.total)
        room = self._room(candidates, longer, compilation=False) - self._slowest(
            candidates, longer, "select", compilation=False
        )
        return max(
            min(room, SHARE * beginning - (beginning - self._left())),
            CHEAP * self._room(candidates, self.shortest, compilation=False),
        )

    def _that_fit(self, groups: Sequence[Group], tried: Sequence[Candidate], *, always: bool) -> list[Candidate]:
        """Return a candidate for each of the first groups for which there is time; at least one if `always`."""
        wanted: list[Candidate] = []
        for group in groups:
            more = [*wanted, *(Candidate(group, rate) for rate in self._rates(group, 1))]
            if self._seconds(more, self.shortest) <= self._room([*tried, *more], self.shortest, compilation=False) or (
                always and not wanted
            ):
                wanted = more
        return wanted

    def _seconds(self, candidates: Iterable[Candidate], length: int) -> float:
        return self.work.expected([trial for each in candidates for trial in self.trials(each, length)])

    def _rates(self, group: Group, count: int | None) -> list[float]:
        """Return the learning rates nearest to the best one at the head's last depth; all of them for None."""
        if count is None or count >= len(self.grid.rates_of(group)):
            return list(self.grid.rates_of(group))
        rows = [row for row in self.rows if row["head"] == group[0] and row["depth"] != group[1]]
        best = selection.choose([row for row in rows if row["depth"] == rows[-1]["depth"]], "learning_rate")
        middle = best[0] if best else self.grid.rates[len(self.grid.rates) // 2]
        return sorted(self.grid.rates, key=lambda rate: (round(abs(math.log(rate / middle)), 6), rate))[:count]

    def _widened(self, groups: Sequence[Group]) -> list[Candidate]:
        """Add learning rates where the lowest or highest is the best, while there is time; return the new candidates."""
        tried: list[Candidate] = []
        for _ in range(WIDENED):
            new = []
            for group in groups:
                rows = [row for row in self.rows if group_of(row) == group and row["steps"] == self.shortest]
                rate = selection.widened(rows, sorted({row["learning_rate"] for row in rows}))
                if rate is not None:
                    new.append(Candidate(group, rate))
            if not new or self._seconds(new, self.shortest) > SHARE * self._room(new, self.shortest):
                break
            for each in new:
                print(
                    f"      {self.grid.title(each.group)}: the best learning rate is the lowest or highest one; "
                    f"trying {each.rate:g} too",
                    flush=True,
                )
            self._do([trial for each in new for trial in self.trials(each, self.shortest)])
            tried += new
        return tried

    def _merit(self, candidate: Candidate, length: int) -> tuple[float, float] | None:
        names = {trial.name for trial in self.trials(candidate, length)}
        rows = [row for row in self.rows if row["cell"] in names]
        return selection.score(rows) if len(rows) == len(names) else None

    def _ranked(self, candidates: Iterable[Candidate], length: int) -> list[Candidate]:
        scored = [(merit, each) for each in candidates if (merit := self._merit(each, length)) is not None]
        return [each for _, each in sorted(scored, key=lambda pair: pair[0], reverse=True)]

    def _longer(self, length: int, standing: Mapping[str, Sequence[Candidate]]) -> int | None:
        """Return the next length; None if longer trainings would not help."""
        if length < self.total:
            return min(self.total, LONGER * length)
        firsts = [some[0] for some in standing.values() if some]
        rising = any(
            selection.still_rising(
                [row for row in self.rows if row["cell"] in {trial.name for trial in self.trials(each, length)}]
            )
            for each in firsts
        )
        return 2 * length if rising and 2 * length <= LENGTHENED * self.total else None

    def _continue(
        self, standing: Mapping[str, Sequence[Candidate]], length: int, longer: int
    ) -> dict[str, list[Candidate]]:
        """Train the best third of each head longer, while there is time; return each head's candidates, best first."""
        kept = {head: some[: max(1, math.ceil(len(some) / KEPT))] for head, some in standing.items()}
        firsts = [some[0] for some in kept.values() if some]
        firsts.sort(key=lambda each: self._merit(each, length) or (-math.inf, -math.inf), reverse=True)
        seconds = [each for some in kept.values() for each in some[1:]]
        seconds.sort(key=lambda each: self._merit(each, length) or (-math.inf, -math.inf), reverse=True)
        trained: list[Candidate] = []
        for each in firsts:
            # The best of all comes first, so that at least one training is longer.
            if self._seconds([each], longer) <= self._room([*trained, each], longer):
                self._do(self.trials(each, longer))
                trained.append(each)
        continuing = {each.group[0] for each in trained}
        seconds = [each for each in seconds if each.group[0] in continuing]
        while seconds:
            # Candidates of one group train together if there is time for all of them, otherwise one after the other.
            room = SHARE * self._room([*trained, *seconds], longer)
            some = [each for each in seconds if each.group == seconds[0].group]
            if self._seconds(some, longer) > room:
                some = some[:1]
            if self._seconds(some, longer) <= room:
                self._do([trial for each in some for trial in self.trials(each, longer)])
                trained += some
            seconds = [each for each in seconds if each not in some]
        found = {head: self._ranked([each for each in trained if each.group[0] == head], longer) for head in standing}
        return {head: some for head, some in found.items() if some}

    def _refine(self) -> None:
        """Try untried learning rates next to those of the choices, at the same depth and length."""
        while True:
            winners, _ = choices(self.rows)
            chosen = [
                Candidate((head, found["depth"], found["classifier_rate"]), found["learning_rate"])
                for head, found in winners.items()
            ]
            chosen.sort(key=lambda each: winners[each.group[0]]["score"], reverse=True)
            for each in chosen:
                length = winners[each.group[0]]["length"]
                new = [Candidate(each.group, rate) for rate in self._neighbours(each)]
                new = [one for one in new if not {*self.trials(one, length)} & {*self.stopped}]
                fitting = [one for one in new if self._seconds([one], length) <= self._room([*chosen, one], length)]
                if fitting:
                    self._do(self.trials(fitting[0], length))
                    break
            else:
                return

    def _neighbours(self, candidate: Candidate) -> list[float]:
        """Return the untried learning rates just above and below that of a candidate."""
        rows = [row for row in self.rows if group_of(row) == candidate.group]
        tried = {row["learning_rate"] for row in rows}
        rates = sorted({*self.grid.rates_of(candidate.group), candidate.rate})
        at = rates.index(candidate.rate)
        return [rate for rate in (*rates[at + 1 : at + 2], *rates[max(at - 1, 0) : at]) if rate not in tried]

    def _compare(self, length: int) -> None:
        """Train each depth with its best rate at the length of the choice, if there is time, for a fair comparison."""
        rows = [row for row in self.rows if row["val"] is not None]
        tried = dict.fromkeys((group_of(row), row["learning_rate"]) for row in rows)
        best: dict[Group, Candidate] = {}
        for group in dict.fromkeys(group for group, _ in tried):
            for some in (length, *sorted({row["steps"] for row in rows}, reverse=True)):
                if ranked := self._ranked([Candidate(*each) for each in tried if each[0] == group], some):
                    best[group] = ranked[0]
                    break
        winners, _ = choices(self.rows)
        chosen = [
            Candidate((head, found["depth"], found["classifier_rate"]), found["learning_rate"])
            for head, found in winners.items()
        ]
        for each in sorted(best.values(), key=lambda each: self._seconds([each], length)):
            if self._seconds([each], length) <= self._room([*chosen, each], length):
                self._do(self.trials(each, length))
