"""The schedules of the learning rate: the one table of their names, the fields that each reads, and their builders.

A further schedule is a row of `SCHEDULES`. A builder is named by its function in Optax, since this room knows no JAX.
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

    @property
    def factors(self) -> dict[int, float]:
        """What the rate is multiplied by at each boundary; two boundaries can fall on one step."""
        if not self.boundaries:
            raise UserError(
                f"config.schedule.name={self.config.name!r} needs config.schedule.boundaries_epochs (or _steps, _examples)."
            )
        factors: dict[int, float] = {}
        for step in self.boundaries:
            factors[step] = factors.get(step, 1.0) * self.config.factor
        return factors


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A row of the table.

    Attributes:
      optax: name of the function of Optax that builds the schedule.
      arguments: returns the arguments of that function.
      uses: the fields of `config.schedule` that only some schedules read, and this one does.
    """

    optax: str
    arguments: Callable[[Span], tuple[Any, ...]]
    uses: tuple[str, ...] = ()


SCHEDULES: Mapping[str, Schedule] = {
    "cosine": Schedule(
        "cosine_decay_schedule", lambda span: (span.rate, span.decay_steps, span.config.final), ("final",)
    ),
    "step": Schedule(
        "piecewise_constant_schedule",
        lambda span: (span.rate, span.factors),
        ("boundaries_steps", "boundaries_epochs", "boundaries_examples", "factor"),
    ),
    "constant": Schedule("constant_schedule", lambda span: (span.rate,)),
    "linear": Schedule(
        "linear_schedule", lambda span: (span.rate, span.rate * span.config.final, span.decay_steps), ("final",)
    ),
}
