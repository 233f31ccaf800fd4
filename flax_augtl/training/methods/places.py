"""The places of training into which methods are plugged. Training knows these places, and no method by its name."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import optax

from flax_augtl.training.freezing import FreezingPlan, Subset


class GroupRates(Protocol):
    """Place 2: the rates of the pretrained layer groups."""

    def factors(self, plan: FreezingPlan) -> Mapping[str, float]:
        """Return what the rate of each pretrained layer group that trains is multiplied by."""
        ...


class Pull(Protocol):
    """Place 3: a transform of the gradient of pretrained layers, in place of their weight decay."""

    def transform(self) -> optax.GradientTransformation:
        """Return the transform."""
        ...


class Around(Protocol):
    """Place 3: what is put around the whole rule of pretrained layers."""

    def around(self, rule: optax.GradientTransformation) -> optax.GradientTransformation:
        """Return another rule."""
        ...


class FeatureLoss(Protocol):
    """Place 4: a term of the loss."""

    def loss(self, features: jax.Array, labels: jax.Array, axis_name: str) -> jax.Array:
        """Return the term for the whole batch, the same on every device.

        Args:
          features: this device's penultimate features, float [b, D].
          labels: of these examples, int [b].
          axis_name: axis of the devices.
        """
        ...


class Normalisation(Protocol):
    """Place 6: how batch norm works while training."""

    def during(self, key: jax.Array) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which networks are run.

        Args:
          key: the same on every device.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Places:
    """What is plugged into training.

    Attributes:
      subset: which parameters of pretrained layer groups train; None for all.
      group_rates: rates of the pretrained layer groups.
      pulls: in place of the weight decay of pretrained layers, if there are any.
      around: the rule of pretrained layers, from the inside out.
      losses: further terms of the loss.
      normalisation: of batch norm in training.
    """

    subset: Subset | None = None
    group_rates: GroupRates | None = None
    pulls: tuple[Pull, ...] = ()
    around: tuple[Around, ...] = ()
    losses: tuple[FeatureLoss, ...] = ()
    normalisation: Normalisation | None = None

    def on(self, plan: FreezingPlan) -> "Places":
        """Return what is left of them under a plan: nothing if no layer of the source network trains."""
        return self if plan.trains_source else Places()
