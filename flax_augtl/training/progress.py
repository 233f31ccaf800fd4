"""The progress of a run, which its checkpoints keep beside the arrays."""

import dataclasses
from typing import Any

from flax_augtl.config import value_types
from flax_augtl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
      step: number of steps done.
      position: number of global batches seen; the order of the data is a function of (seed, position).
      best_step: step of the best evaluation so far; None before the first evaluation.
      best_value: metric of the best evaluation.
      best_loss: loss of the best evaluation, which decides between equal metrics.
      evaluations_since_best: number of evaluations since the best one, for early stopping.
      seconds: time spent in training and evaluation, over all starts of the run.
      evaluation_due: whether the program was interrupted during the evaluation after `step`.
      not_finite: number of steps whose loss or gradient was not finite (`config.on_nan`).
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
_BEST = ("best_value", "best_loss")  # These may be infinite, which `value_types` does not allow.


def from_json(values: Any, where: str) -> Progress:
    """Return the progress in a checkpoint, with the type of every value checked: it may come from a stranger.

    Args:
      values: the JSON object.
      where: name of the object in messages.

    Raises:
      UserError: it is not an object, or a value has the wrong type.
    """
    value_types.check(values, _KINDS, ("step", "position"), where)
    for name in _BEST:
        if not isinstance(values.get(name), float | int | None):
            raise UserError(f"{where} cannot be used: {name} must be a number or null.")
    for name in _COUNTS:
        if values.get(name, 0) < 0:
            raise UserError(f"{where} cannot be used: {name} must be at least 0.")
    return Progress(**{name: value for name, value in values.items() if name in (*_KINDS, *_BEST)})
