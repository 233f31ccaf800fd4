"""How far a run is: what its checkpoints say besides arrays."""

import dataclasses
from typing import Any

from flax_augtl.config import value_types
from flax_augtl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
      step: steps done.
      position: global batches of data seen; the order of the data is a function of (seed, position).
      best_step: step of the best evaluation so far, None before the first.
      best_value: its value of the metric that chooses.
      best_loss: its loss, which decides between equal values.
      evaluations_since_best: for early stopping.
      seconds: spent in training and evaluation so far, over all starts of the run.
      evaluation_due: the program was interrupted in the evaluation that belongs to `step`.
      not_finite: steps so far whose loss or gradient was not finite (`config.on_nan`).
    """

    step: int = 0
    position: int = 0
    best_step: int | None = None
    best_value: float | None = None
    best_loss: float | None = None
    evaluations_since_best: int = 0
    seconds: float = 0.0
    evaluation_due: bool = False
    not_finite: int = 0


_COUNTS = ("step", "position", "evaluations_since_best", "not_finite")
_KINDS = {
    **dict.fromkeys(_COUNTS, "whole number"),
    "best_step": "whole number or null",
    "seconds": "number",
    "evaluation_due": "true or false",
}
_BEST = ("best_value", "best_loss")  # These may be infinite, which no kind of number is.


def from_json(values: Any, where: str) -> Progress:
    """Return what a checkpoint says, which may be anybody's, with the kind of every value checked.

    Args:
      values: the JSON object.
      where: what to call it in the message.

    Raises:
      ValueError: it is no such object, or a value is of another kind.
    """
    value_types.check(values, _KINDS, ("step", "position"), where)
    for name in _BEST:
        if not isinstance(values.get(name), float | int | None):
            raise UserError(f"{where} cannot be used: {name} must be a number or null.")
    for name in _COUNTS:
        if values.get(name, 0) < 0:
            raise UserError(f"{where} cannot be used: {name} must be at least 0.")
    return Progress(**{name: value for name, value in values.items() if name in (*_KINDS, *_BEST)})
