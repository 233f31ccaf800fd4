"""The optimizers: the one table of their names, the fields that each reads, and their builders.

A further optimizer is a row of `OPTIMIZERS`. A builder is named by its function in Optax, since this room knows no JAX.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """A row of the table.

    Attributes:
      transform: from the settings, which have the fields of `uses`, returns the name of the function of Optax that
        builds the transform from gradients to updates for a learning rate of 1, and its arguments; None for no transform.
      decoupled: whether the weight decay comes after the transform instead of before it.
      uses: the fields of `config` that only some optimizers read, and this one does.
      comment: what is to be said of it besides its name.
    """

    transform: Callable[[Any], tuple[str, Mapping[str, Any]] | None]
    decoupled: bool
    uses: tuple[str, ...] = ()
    comment: str = ""


OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": Optimizer(
        lambda settings: ("trace", {"decay": settings.momentum, "nesterov": True}) if settings.momentum else None,
        decoupled=False,
        uses=("momentum",),
        comment="Nesterov momentum",
    ),
    "adamw": Optimizer(lambda settings: ("scale_by_adam", {}), decoupled=True),
}
