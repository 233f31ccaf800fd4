"""Tensors of a checkpoint that are read only when they are needed."""

import dataclasses
import enum
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


class Storage(enum.StrEnum):
    """How a checkpoint stores its tensors, in the user's words."""

    SAFETENSORS = "safetensors"
    NPZ = "npz"
    TORCH = "PyTorch"
    KERAS = "Keras HDF5"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
      storage: how the tensors are stored.
      tensors: by their names in the file.
      metadata: the file's own description: strings from safetensors.
      files: number of files that hold it.
    """

    storage: Storage
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: int = 1

    @property
    def format(self) -> str:
        """A few words for the user, such as `safetensors in 3 files`."""
        return str(self.storage) if self.files == 1 else f"{self.storage} in {self.files} files"
