"""Tensors of a checkpoint that are not read before they are needed."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that lies in a file.

    Attributes:
      shape: in the order that `read` gives, which is PyTorch's (OIHW, [out, in]).
      dtype: as stored.
      read: returns the array; a view of the mapped file where the format allows it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> "Tensor":
        """Wrap an array that is already there, or already mapped."""
        return cls(tuple(array.shape), array.dtype, lambda: array)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
      format: a few words for the user, e.g. "safetensors".
      tensors: by the names that the file gives them.
      metadata: what the file says of itself: strings from safetensors, the model's config from Keras.
    """

    format: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
