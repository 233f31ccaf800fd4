"""Builds the source networks by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from flax_augtl.config.networks import NETWORKS, find
from flax_augtl.errors import UserError
from flax_augtl.models.alexnet import AlexNet
from flax_augtl.models.base import SourceNetwork
from flax_augtl.models.resnet import ResNet
from flax_augtl.models.vgg import VGG

_LARGEST = 2**20  # Upper bound of a width and of a number of classes or blocks.
MODELS = NETWORKS
FAMILIES: Mapping[str, type[SourceNetwork]] = {"resnet": ResNet, "vgg": VGG, "alexnet": AlexNet}
"""The class of each family of networks, by `config.networks.Entry.family`."""


def model_names() -> tuple[str, ...]:
    """Return the names that `create_model` knows."""
    return tuple(MODELS)


def family_of(name: str) -> type[SourceNetwork]:
    """Return the class of the network `name`."""
    return FAMILIES[find(name).family]


def create_model(
    name: str, *, num_classes: int | None = 1000, dtype=jnp.float32, axis_name: str | None = None, **variant
) -> SourceNetwork:
    """Build the source network `name`.

    Args:
      name: one of `model_names()`.
      num_classes: outputs of the classification layer; None or 0 leaves that layer out.
      dtype: of the computation; parameters are always float32.
      axis_name: mapped axis over which training batch statistics are averaged.
      **variant: other fields of the module, e.g. `v1_stride=True, conv_bias=True, epsilon=1.001e-5` for Keras' ResNet.

    Returns:
      A Linen module. Two modules made with the same arguments are equal and have the same hash.

    Raises:
      UserError: there is no such network, its module has no such field, or a value has the wrong type or is out of
        range.

    >>> create_model("resnet18").groups
    ('stem', 'layer1', 'layer2', 'layer3', 'layer4', 'fc')
    """
    entry = find(name)
    family = FAMILIES[entry.family]
    known = {field.name for field in dataclasses.fields(family)} - {"parent", "name"}
    unknown = sorted(set(variant) - known)
    if unknown:
        raise UserError(f"{name} has no setting {', '.join(unknown)}. Its settings are {', '.join(sorted(known))}.")
    usual = family(**entry.settings)
    for field, value in variant.items():
        if not _is_like(value, getattr(usual, field)):
            raise UserError(f"{name}: its setting {field} must be like {getattr(usual, field)!r}, not {value!r}.")
        if value not in family.CHOICES.get(field, (value,)):
            choices = ", ".join(family.CHOICES[field])
            raise UserError(f"{name}: its setting {field} must be one of {choices}, not {value!r}.")
    if num_classes is not None and not 0 <= num_classes <= _LARGEST:
        raise UserError(f"{name}: num_classes must be between 1 and {_LARGEST}, got {num_classes}.")
    fields = {**dataclasses.asdict(usual), **variant}
    # The fields with one entry per stage.
    stages = {field: len(value) for field, value in fields.items() if isinstance(value, tuple)}
    if len(set(stages.values())) > 1 or 0 in stages.values():
        raise UserError(
            f"{name}: {' and '.join(stages)} must have as many entries as each other, not "
            f"{' and '.join(map(str, stages.values()))}."
        )
    # jnp.dtype turns "float32", np.float32 and jnp.float32 into the same value, so that modules compare equal.
    common = dict(num_classes=num_classes or None, dtype=jnp.dtype(dtype), axis_name=axis_name)
    return family(**{**entry.settings, **variant, **common})


def _is_like(value: Any, usual: Any) -> bool:
    """Tell whether a value has the type of a field's usual one, and is in its range."""
    if isinstance(usual, tuple):
        return isinstance(value, tuple) and all(_is_like(each, usual[0]) for each in value)
    if isinstance(usual, float):
        # The only one is a batch norm's epsilon.
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
    return type(value) is type(usual) and (type(value) is not int or 1 <= value <= _LARGEST)
