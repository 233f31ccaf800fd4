"""Finds the registered network that a set of tensors belongs to."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from flax_augtl.models import MODELS, create_model
from flax_augtl.models.base import SourceNetwork
from flax_augtl.models.registry import FAMILIES, family_of, find
from flax_augtl.pretrained.convert import check, class_count
from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.formats.lazy_tensor import Tensor
from flax_augtl.pretrained.relatives import kin


def model_for(name: str, tensors: Mapping[str, Tensor], *, classify: bool = True, **settings) -> SourceNetwork:
    """Return the module `name` in the variant of the tensors.

    Args:
      name: of a registered network.
      tensors: in torchvision's names.
      classify: False leaves the classification layer out; so does a checkpoint without one.
      **settings: further arguments of `create_model`; they win over the variant of the tensors.
    """
    classes = class_count(name, tensors) if classify else None
    return create_model(name, num_classes=classes, **{**variant(name, tensors), **settings})


def variant(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the settings of the module `name` that the names of the tensors show."""
    return family_of(name).variant_of_tensors(tensors, MODELS[name])


def variant_notes(name: str, tensors: Mapping[str, Tensor], **settings) -> Iterator[str]:
    """Return a sentence for every setting that is not the network's usual one."""
    return family_of(name).variant_notes({**variant(name, tensors), **settings}, MODELS[name])


def _problems(name: str, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> list[str]:
    return check(tensors, model_for(name, tensors, **_of_family(name, settings)).slots())


def _of_family(name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings that are fields of a network's module."""
    fields = {field.name for field in dataclasses.fields(family_of(name))}
    return {field: value for field, value in settings.items() if field in fields}


def fitting(tensors: Mapping[str, Tensor], **settings) -> tuple[str, ...]:
    """Return the names of the registered networks that the tensors fit, name by name and shape by shape.

    Args:
      tensors: in torchvision's names.
      **settings: fields of the module that the tensors need; families without such a field ignore it.
    """
    return tuple(name for name in MODELS if not _problems(name, tensors, settings))


def require_fit(name: str | None, tensors: Mapping[str, Tensor], where: str, **settings) -> str:
    """Return the name of the network that the tensors fit; it is `name` if that is given.

    Raises:
      CheckpointError: they do not fit it, or none. The message lists everything missing, unexpected and mis-shaped, and
        names the network that they do fit.
    """
    if name is not None:
        find(name)
    if name is not None and not _problems(name, tensors, settings):
        return name
    fits = fitting(tensors, **settings)
    if name is None and fits:
        return fits[0]
    hint = "" if fits else kin(tensors)
    if name is not None:
        first = f"{where} does not fit {name}."
        if fits:
            first += f" This file fits {' or '.join(fits)}."
        _refuse(" ".join(filter(None, (first, hint))), _problems(name, tensors, settings))
    if not tensors:
        _refuse(f"{where} holds no tensors.", [])
    families = [name for name, family in FAMILIES.items() if family.recognises(tensors)]
    if not families:
        names = ", ".join(list(tensors)[:3])
        first = (
            f"{where} fits no network that is known here: its tensors ({names}, …) have the names of no ResNet, VGG or "
            "AlexNet."
        )
        _refuse(" ".join(filter(None, (first, hint))), [])
    among = [name for name, entry in MODELS.items() if entry.family == families[0]]
    nearest = min(among, key=lambda n: _distance(n, tensors, settings))
    first = (
        f"{where} fits no network that is known here. {hint}{' ' * bool(hint)}The nearest is {nearest}, from which it "
        "differs:"
    )
    _refuse(first, _problems(nearest, tensors, settings))


def _distance(name: str, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of names, and then of shapes, in which tensors differ from a network's."""
    slots = model_for(name, tensors, **_of_family(name, settings)).slots()
    shared = [n for n in slots if n in tensors]
    same = sum(tensors[n].shape == slots[n].shape for n in shared)
    return len(slots) + len(tensors) - 2 * len(shared), len(shared) - same


def _refuse(first: str, problems: list[str]) -> NoReturn:
    raise CheckpointError("\n".join([first, *problems]))
