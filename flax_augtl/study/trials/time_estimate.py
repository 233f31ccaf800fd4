"""The time that trials will take, by their timing and by what was measured since."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from flax_augtl.study.context import Context
from flax_augtl.study.grid import Group, Trial
from flax_augtl.study.trials.cost import Timing

# The timing of a group is corrected by groups whose steps take at least this share of its time.
ALIKE = 0.1


@dataclasses.dataclass
class TimeEstimate:
    """The timing of a study, corrected by what was measured since.

    Attributes:
      context: of the study.
      timed: what was timed before.
      slowness: how many times longer than timed large work took so far.
      measured: seconds of a step of each group, evaluation included.
      compiled: seconds of the compilation of each group.
    """

    context: Context
    timed: Timing
    slowness: float = 1.0
    measured: dict[Group, float] = dataclasses.field(default_factory=dict)
    compiled: dict[Group, float] = dataclasses.field(default_factory=dict)

    def seconds_of(self, trial: Trial) -> float:
        """Return the seconds of a trial by the timing alone."""
        full = dataclasses.replace(trial, stage="select", steps=None)
        mean = sum(self.timed.trial_seconds.values()) / len(self.timed.trial_seconds)
        seconds = self.timed.trial_seconds.get(" ".join(trial.group), mean)
        return seconds * (trial.steps or 1) / len(self.context.schedule(full)[0]) if trial.steps else seconds

    def seconds(self, trials: Iterable[Trial]) -> float:
        """Return the seconds of trials, by what was measured for their groups, else by the timing."""
        return sum(
            self.measured[trial.group] * len(self.context.schedule(trial)[0])
            if trial.group in self.measured
            else self.seconds_of(trial)
            for trial in trials
        )

    def expected(self, trials: Iterable[Trial], *, compilation: bool = True) -> float:
        """Return the seconds that unfinished trials will take.

        A head that was not trained yet counts as another head at that depth. A depth that was not trained yet counts as
        its timing, corrected by depths whose steps take about as long or longer. Without such depths, `slowness`
        corrects it; the fixed costs of a step, which cheaper depths showed, are added.

        Args:
          trials: that are not finished.
          compilation: whether to add the compilation of groups that are not compiled yet.
        """
        steps = {group[1:]: value for group, value in self.measured.items()}
        compiled = {group[1:]: value for group, value in self.compiled.items()}
        seconds, new = 0.0, set()
        for trial in trials:
            step = self.measured.get(trial.group, steps.get(trial.group[1:]))
            step = self._guessed(trial.group, self.measured, self._timed_step) if step is None else step
            seconds += step * len(self.context.schedule(trial)[0])
            if trial.group not in self.compiled:
                new.add(trial.group)
        return seconds + compilation * sum(
            compiled.get(group[1:], self._guessed(group, self.compiled, self._timed_compilation)) for group in new
        )

    def _guessed(self, group: Group, measured: Mapping[Group, float], timed: Callable[[Group], float]) -> float:
        """Return the expected seconds of something that was measured for other groups only."""
        alike = [other for other in measured if timed(other) >= ALIKE * timed(group)]
        if alike:
            largest = max(alike, key=timed)
            return measured[largest] / timed(largest) * timed(group)
        surplus = max((seconds - self.slowness * timed(other) for other, seconds in measured.items()), default=0.0)
        return self.slowness * timed(group) + max(surplus, 0.0)

    def _timed_compilation(self, group: Group) -> float:
        return max(self.timed.compile_seconds.get(" ".join(group), 0.0), 1e-9)

    def _timed_step(self, group: Group) -> float:
        """Return the seconds of a step of a group by the timing, evaluation included."""
        trial = Trial("select", *group, self.context.grid.rates[0], self.context.grid.seeds[0])
        return max(self.seconds_of(trial), 1e-9) / len(self.context.schedule(trial)[0])
