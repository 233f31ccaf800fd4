"""Reads PyTorch's own files with PyTorch's safe loader, which builds tensors and calls nothing else."""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.formats.lazy_tensor import Checkpoint, Storage, Tensor
from flax_augtl.runtime.text import first_line

_DEEPEST = 8  # Levels of nested dicts and lists.
# A pickle of a NumPy number calls these; the second is the first one's name in NumPy 1.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS = (
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(code)) for code in "?bBhHiIlLefd"),
)


def _flat(loaded: Any, torch) -> dict[str, Any]:
    """Return all tensors in nested dicts and lists, by their keys joined with dots."""
    found, seen = {}, set()

    def visit(value, prefix, depth):
        if isinstance(value, torch.Tensor):
            found[prefix.rstrip(".")] = value
        # Visit a container once, even if it is in several places or contains itself.
        elif isinstance(value, (Mapping, list, tuple)) and depth < _DEEPEST and id(value) not in seen:
            seen.add(id(value))
            for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                visit(item, f"{prefix}{key}.", depth + 1)

    visit(loaded, "", 0)
    return found


def _check_holds_tensors(loaded: Any, found: Mapping[str, Any], path: Path) -> None:
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(loaded).__name__}, not a state dict. Save `model.state_dict()` instead."
        )
    if loaded and not found:
        raise CheckpointError(
            f"{path} has no state dict; it holds {', '.join(map(str, list(loaded)[:10]))}. Save `model.state_dict()`."
        )


def _load(path: Path, torch) -> Any:
    if path.suffix == ".safetensors":
        # torch.load goes by the name of a path, but not of an open file; the tensors are then not mapped.
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _tensor(tensor, name: str, torch, path: Path) -> Tensor:
    """Wrap a tensor; reading one that NumPy cannot represent raises CheckpointError."""
    tensor, shape = tensor.detach(), tuple(tensor.shape)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta or tensor.is_sparse or tensor.is_quantized:
        problem = f"has sparse, quantised or absent tensors, which are not read: {name}, …"
    elif tensor.dtype == torch.bfloat16:
        return Tensor.of(tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    else:
        try:
            return Tensor.of(tensor.numpy())
        except TypeError:
            problem = f"has tensors of type {dtype}, which are not read: {name}, …. Convert them to float32."

    def refuse():
        raise CheckpointError(f"{path} {problem}")

    return Tensor(shape, np.dtype(np.float32), refuse)


def _refusal(path: Path, error: Exception) -> str:
    """Say why the loader refused a pickle."""
    found = re.search(r"(?:GLOBAL|class|global)\s+`?([\w.]+\.[\w.]+)`?", str(error))
    what = f" ({found.group(1)})" if found else ""
    return (
        f"{path} is refused: it is a pickle that holds more than tensors{what}, and reading it could run code. "
        "Where you trust it, load it with PyTorch yourself and save `model.state_dict()`, or better, safetensors."
    )


def read_torch(path: Path) -> Checkpoint:
    """Read a PyTorch zip or legacy file; the tensors of a zip file stay mapped.

    Nothing in the file is executed: `weights_only=True`. Besides tensors, only plain values are allowed:
    `argparse.Namespace`, in which torchvision's and timm's scripts save their arguments, and NumPy's numbers.

    Returns:
      All tensors in the file by their keys, joined with dots: "state_dict.conv1.weight".

    Raises:
      CheckpointError: PyTorch is not installed; or the file is damaged, holds more than tensors, or has no state dict.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]  # An optional extra.
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a PyTorch file, and reading it needs PyTorch: pip install 'flax_augtl[torch]'. "
            "Or convert it to safetensors where PyTorch is installed."
        ) from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *_NUMBERS]), warnings.catch_warnings():
            # The warning says that the loader may not know a newer protocol; it refuses what it does not know.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            loaded = _load(path, torch)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error) or "Ran out of input" in str(error):
            raise CheckpointError(f"{path}: the PyTorch file is cut short. Download it again.") from error
        raise CheckpointError(_refusal(path, error)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, UnicodeDecodeError, OSError) as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path} is a TorchScript program, which is not read. Save the model's state dict instead."
            ) from error
        raise CheckpointError(
            f"{path}: the PyTorch file is cut short or damaged ({first_line(error)}). Download it again."
        ) from error
    state = _flat(loaded, torch)
    _check_holds_tensors(loaded, state, path)
    return Checkpoint(Storage.TORCH, {name: _tensor(tensor, name, torch, path) for name, tensor in state.items()})
