"""Converts state dicts in torchvision's names into trees of Linen variables, and back."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from flax_augtl.errors import UserError
from flax_augtl.models import MODELS, create_model
from flax_augtl.models.parameters import Slot
from flax_augtl.models.registry import family_of
from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.formats.lazy_tensor import Tensor

_LINES = 10
_ALIGNMENT = 64
_TO_LINEN = {"conv": (2, 3, 1, 0), "dense": (1, 0), "vector": (0,)}
_TO_TORCH = {"conv": (3, 2, 0, 1), "dense": (1, 0), "vector": (0,)}


def list_lines(title: str, lines: Iterable[str]) -> list[str]:
    """Return a heading with a count, then the first ten lines, indented; nothing where there are no lines."""
    lines = list(lines)
    if not lines:
        return []
    rest = [f"  … and {len(lines) - _LINES} more"] if len(lines) > _LINES else []
    return [f"{title} ({len(lines)}):", *(f"  {line}" for line in lines[:_LINES]), *rest]


def _fits(slot: Slot, shape: tuple[int, ...]) -> bool:
    # timm's VGG keeps the matrices fc6 and fc7 as convolutions, [out, C, H, W] for [out, C · H · W].
    if slot.type == "dense" and len(shape) == 4:
        shape = (shape[0], int(np.prod(shape[1:])))
    return shape == slot.shape


def check(tensors: Mapping[str, Tensor], slots: Mapping[str, Slot]) -> list[str]:
    """Compare names and shapes with what a network expects.

    Returns:
      Lines that name all tensors that are missing, unexpected, mis-shaped or not floating-point; none if all fit.
    """
    floating = {name for name, t in tensors.items() if t.dtype.kind in "fV"}
    shared = [name for name in slots if name in tensors]
    return [
        *list_lines("missing", (f"{n} {list(slots[n].shape)}" for n in slots if n not in tensors)),
        *list_lines("unexpected", (f"{n} {list(t.shape)}" for n, t in tensors.items() if n not in slots)),
        *list_lines(
            "mis-shaped",
            (
                f"{n} {list(tensors[n].shape)}, expected {list(slots[n].shape)}"
                for n in shared
                if not _fits(slots[n], tensors[n].shape)
            ),
        ),
        *list_lines("not floating-point", (f"{n} {tensors[n].dtype}" for n in shared if n not in floating)),
    ]


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Return an uninitialised float32 array that starts at a multiple of 64 bytes.

    On a CPU, JAX uses such an array without a copy, so that the weights are in memory only once.
    """
    size = int(np.prod(shape)) * 4
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % _ALIGNMENT
    return raw[begin : begin + size].view(np.float32).reshape(shape)


def _to_linen(array: np.ndarray, tensor_type: str) -> np.ndarray:
    """Return an aligned float32 copy of a tensor in PyTorch's order, in Linen's order."""
    if tensor_type == "dense" and array.ndim == 4:
        source = array.transpose(1, 2, 3, 0)
        copy = _aligned(source.shape)
    else:
        source = array.transpose(_TO_LINEN[tensor_type])
        copy = _aligned(source.shape)
    # The last axis of one is the first of the other. Slices of 64 of both stay in the processor's cache: a plain copy
    # of VGG's fc6 takes three times as long.
    for begin in range(0, source.shape[-1], 64):
        copy[..., begin : begin + 64] = source[..., begin : begin + 64]
    return copy.reshape(-1, copy.shape[-1]) if tensor_type == "dense" else copy


def _is_finite(array: np.ndarray) -> bool:
    """Tell whether all values are finite, in pieces, since `isfinite` of a whole fc6 allocates another 100 MB."""
    flat = array.reshape(-1)
    return all(np.isfinite(flat[begin : begin + 2**20]).all() for begin in range(0, flat.size, 2**20))


def to_variables(tensors: Mapping[str, Tensor], slots: Mapping[str, Slot]) -> dict[str, Any]:
    """Convert the tensors in `slots`, one at a time, and put them on the default device.

    Args:
      tensors: in torchvision's names; `check` found no problem with them.
      slots: the layout of the network.

    Returns:
      {"params": …, "batch_stats": …} of float32 arrays; "batch_stats" only if there are any.

    Raises:
      CheckpointError: tensors hold NaN or infinite values; the message names all of them.
    """
    flat, broken = {}, []
    for name, slot in slots.items():
        # A float64 can overflow float32; the error then reports it as infinite.
        with np.errstate(over="ignore"):
            array = _to_linen(tensors[name].read(), slot.type)
        if not _is_finite(array):
            broken.append(f"{name}: {int((~np.isfinite(array)).sum())} of {array.size} values")
        elif not broken:
            flat[slot.path] = jax.device_put(array)
    if broken:
        lines = list_lines("The checkpoint has weights that are NaN or infinite", broken)
        raise CheckpointError("\n".join(lines))
    return unflatten_dict(flat)


def to_state_dict(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert a network's variables into a state dict with torchvision's tensor names: the inverse of loading.

    The small CIFAR networks, which torchvision does not have, get names of the same form.

    Args:
      name: of the network.
      variables: {"params": …, "batch_stats": …}, with or without the classification layer.

    Returns:
      float32 arrays in PyTorch's order, contiguous copies, in torchvision's order of names.

    Raises:
      UserError: there is no such network, or the variables do not belong to it.
    """
    leaves = flatten_dict({c: variables[c] for c in ("params", "batch_stats") if c in variables})
    model = create_model(name, num_classes=_classes(name, leaves))
    slots = model.clone(**model.variant_of_paths(leaves)).slots()
    paths = [slot.path for slot in slots.values()]
    differing = [
        *list_lines("missing", ("/".join(p) for p in paths if p not in leaves)),
        *list_lines("unexpected", ("/".join(p) for p in leaves if p not in paths)),
    ]
    if differing:
        raise UserError("\n".join([f"These are not the variables of {name}.", *differing]))
    return {
        torch_name: np.array(np.asarray(leaves[slot.path]).transpose(_TO_TORCH[slot.type]), np.float32, order="C")
        for torch_name, slot in slots.items()
    }


def _classes(name: str, leaves: Mapping[tuple[str, ...], Any]) -> int | None:
    if name not in MODELS:
        return None  # create_model raises the error, with the choices.
    kernel = leaves.get(("params", MODELS[name].groups[-1], "kernel"))
    return None if kernel is None else kernel.shape[-1]


def class_count(name: str, tensors: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of a checkpoint's classification layer; None if it has no such layer."""
    weight = f"{family_of(name).PUBLISHED_CLASSIFIER}.weight"
    return tensors[weight].shape[0] if weight in tensors and tensors[weight].shape else None
