"""Where each tensor of a network is: its published name, and its place in the Linen tree."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Slot:
    """One tensor of a network.

    Attributes:
      path: its keys in the tree of variables, collection first.
      type: "conv" (published as OIHW, HWIO in Linen), "dense" (published as [out, in], [in, out] in Linen) or "vector".
      shape: its published shape, in PyTorch's order.
    """

    path: tuple[str, ...]
    type: Literal["conv", "dense", "vector"]
    shape: tuple[int, ...]


def conv_slots(published: str, path: tuple[str, ...], shape: tuple[int, ...], *, bias: bool) -> dict[str, Slot]:
    """Return the slots of a convolution of shape OIHW, by their published names."""
    slots = {f"{published}.weight": Slot(("params", *path, "kernel"), "conv", shape)}
    if bias:
        slots[f"{published}.bias"] = Slot(("params", *path, "bias"), "vector", shape[:1])
    return slots


def norm_slots(published: str, path: tuple[str, ...], width: int) -> dict[str, Slot]:
    """Return the slots of a batch norm over `width` channels, by their published names."""
    return {
        f"{published}.{theirs}": Slot((collection, *path, ours), "vector", (width,))
        for collection, theirs, ours in (
            ("params", "weight", "scale"),
            ("params", "bias", "bias"),
            ("batch_stats", "running_mean", "mean"),
            ("batch_stats", "running_var", "var"),
        )
    }


def dense_slots(published: str, path: tuple[str, ...], outputs: int, inputs: int) -> dict[str, Slot]:
    """Return the slots of a dense layer, by their published names."""
    return {
        f"{published}.weight": Slot(("params", *path, "kernel"), "dense", (outputs, inputs)),
        f"{published}.bias": Slot(("params", *path, "bias"), "vector", (outputs,)),
    }
