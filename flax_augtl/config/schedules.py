"""The schedules of the learning rate: the one table of their names, the fields that each reads, and their builders.

A further schedule is a row of `SCHEDULES`. Optax is imported when a schedule is built, since this room knows no JAX.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax_augtl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Span:
    """What a schedule is built for, after the warm-up.

    Attributes:
      rate: the highest learning rate.
      steps: number of steps, at least 1.
      boundaries: the steps at which the schedule `step` changes the rate.
      config: `config.schedule`, of which a schedule reads the fields in its row.
    """

    rate: float
    steps: int
    boundaries: Sequence[int]
    config: Any

    @property
    def decay_steps(self) -> int:
        """The number of steps after which the rate is `final` of the highest: that of the last step."""
        return max(1, self.steps - 1 if self.config.reaches_final else self.steps)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A row of the table.

    Attributes:
      build: returns the function from a step to its learning rate.
      uses: the fields of `config.schedule` that only some schedules read, and this one does.
    """

    build: Callable[[Span], Callable[[Any], Any]]
    uses: tuple[str, ...] = ()


def _cosine(span: Span) -> Callable[[Any], Any]:
    import optax

    return optax.cosine_decay_schedule(span.rate, span.decay_steps, alpha=span.config.final)


def _linear(span: Span) -> Callable[[Any], Any]:
    import optax

    return optax.linear_schedule(span.rate, span.rate * span.config.final, span.decay_steps)


def _step(span: Span) -> Callable[[Any], Any]:
    import optax

    if not span.boundaries:
        raise UserError("config.schedule.name='step' needs config.schedule.boundaries_epochs (or _steps, _examples).")
    scales: dict[int, float] = {}
    for step in span.boundaries:  # Two boundaries can fall on one step.
        scales[step] = scales.get(step, 1.0) * span.config.factor
    return optax.piecewise_constant_schedule(span.rate, scales)


def _constant(span: Span) -> Callable[[Any], Any]:
    import optax

    return optax.constant_schedule(span.rate)


SCHEDULES: Mapping[str, Schedule] = {
    "cosine": Schedule(_cosine, ("final",)),
    "step": Schedule(_step, ("boundaries_steps", "boundaries_epochs", "boundaries_examples", "factor")),
    "constant": Schedule(_constant),
    "linear": Schedule(_linear, ("final",)),
}
