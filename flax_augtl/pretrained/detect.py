"""Which registered network a set of tensors belongs to."""

from collections.abc import Mapping

from flax_augtl.models import MODELS, create_model
from flax_augtl.models.registry import find
from flax_augtl.pretrained.convert import check, class_count
from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.layout import layout
from flax_augtl.pretrained.tensors import Tensor


def model_for(name: str, tensors: Mapping[str, Tensor], *, classify: bool = True, **settings):
    """Return the module `name` in the variant that the tensors need.

    Args:
        name: of a registered network.
        tensors: in torchvision's names.
        classify: False leaves the classification layer out.
        settings: further arguments of `create_model`; they win over what is found.
    """
    if MODELS[name].family == "resnet" and "conv1.bias" in tensors:
        settings = {"conv_bias": True, **settings}
    # With no classification layer in the file, one is still expected, so that its absence is reported.
    classes = (class_count(name, tensors) or 1000) if classify else None
    return create_model(name, num_classes=classes, **settings)


def _problems(name: str, tensors: Mapping[str, Tensor], classify: bool) -> list[str]:
    return check(tensors, layout(model_for(name, tensors, classify=classify)))


def fitting(tensors: Mapping[str, Tensor], *, classify: bool = True) -> tuple[str, ...]:
    """Return the names of the registered networks that the tensors fit, name by name and shape by shape."""
    return tuple(name for name in MODELS if not _problems(name, tensors, classify))


def require_fit(name: str | None, tensors: Mapping[str, Tensor], where: str, *, classify: bool = True) -> str:
    """Return the network that the tensors fit, which is `name` where a name is given.

    Raises:
        CheckpointError: they do not fit it, or none; everything missing, unexpected and mis-shaped is in the message,
            and the name of the network that they do fit.
    """
    if name is not None:
        find(name)
    if name is not None and not _problems(name, tensors, classify):
        return name
    fits = fitting(tensors, classify=classify)
    if name is None and fits:
        return fits[0]
    if name is not None:
        first = f"{where} does not fit {name}."
        if fits:
            first += f" This file fits {' or '.join(fits)}."
        return _refuse(first, _problems(name, tensors, classify))
    if not tensors:
        return _refuse(f"{where} holds no tensors.", [])
    nearest = min(MODELS, key=lambda n: _distance(n, tensors, classify))
    first = f"{where} fits no network that is known here. The nearest is {nearest}, from which it differs:"
    return _refuse(first, _problems(nearest, tensors, classify))


def _distance(name: str, tensors: Mapping[str, Tensor], classify: bool) -> int:
    slots = layout(model_for(name, tensors, classify=classify))
    same = sum(1 for n, slot in slots.items() if n in tensors and tensors[n].shape == slot.shape)
    return len(slots) + len(tensors) - 2 * same


def _refuse(first: str, problems: list[str]):
    raise CheckpointError("\n".join([first, *problems]))
