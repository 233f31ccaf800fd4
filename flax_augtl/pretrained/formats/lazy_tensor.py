"""Tensors of a checkpoint that are read only when they are needed."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file.

    Attributes:
      shape: of the array that `read` returns, in PyTorch's order (OIHW, [out, in]).
      dtype: as stored.
      read: returns the array; a view of the mapped file if the format allows it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> "Tensor":
        """Wrap an array that is already in memory, or already mapped."""
        return cls(tuple(array.shape), array.dtype, lambda: array)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
      format: a few words for the user, e.g. "safetensors".
      tensors: by their names in the file.
      metadata: the file's own description: strings from safetensors.
    """

    format: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
