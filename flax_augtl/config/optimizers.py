"""The optimizers: the one table of their names, the fields that each reads, and their builders.

A further optimizer is a row of `OPTIMIZERS`. Optax is imported when an optimizer is built, since this room knows no JAX.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """A row of the table.

    Attributes:
      build: returns the transforms from gradients to updates for a learning rate of 1, in their order. Its arguments
        are the settings, with the fields of `uses`, and the transforms of the weight decay, of which there may be none.
      uses: the fields of `config` that only some optimizers read, and this one does.
      comment: what is to be said of it besides its name.
    """

    build: Callable[[Any, list[Any]], list[Any]]
    uses: tuple[str, ...] = ()
    comment: str = ""


def _sgd(settings: Any, decay: list[Any]) -> list[Any]:
    import optax

    return [*decay, *([optax.trace(settings.momentum, nesterov=True)] if settings.momentum else [])]


def _adamw(settings: Any, decay: list[Any]) -> list[Any]:
    import optax

    return [optax.scale_by_adam(), *decay]


OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": Optimizer(_sgd, ("momentum",), "Nesterov momentum"),
    "adamw": Optimizer(_adamw),
}
