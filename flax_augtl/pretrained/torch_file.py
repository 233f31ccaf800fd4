"""Reads PyTorch's own files, through PyTorch's loader that builds tensors only and calls nothing else."""

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
from flax_augtl.pretrained.tensors import Checkpoint, Tensor
from flax_augtl.printable import first_line

# Where training scripts put the state dict, the usual one first.
_HOLDERS = ("state_dict", "model", "module", "model_state_dict", "net", "network")


def _state_dict(loaded: Any, torch, path: Path) -> Mapping[str, Any]:
    """Return the innermost mapping from names to tensors."""
    while True:
        if not isinstance(loaded, Mapping):
            raise CheckpointError(
                f"{path} holds a {type(loaded).__name__}, not a state dict. Save `model.state_dict()` instead."
            )
        if any(isinstance(value, torch.Tensor) for value in loaded.values()):
            return {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
        holder = next((h for h in _HOLDERS if isinstance(loaded.get(h), Mapping)), None)
        if holder is None:
            keys = ", ".join(map(str, list(loaded)[:10])) or "nothing"
            raise CheckpointError(
                f"{path} has no state dict under {', '.join(_HOLDERS)}; it holds {keys}. Save `model.state_dict()`."
            )
        loaded = loaded[holder]


def _load(path: Path, torch) -> Any:
    if path.suffix == ".safetensors":
        # torch.load believes the name of a path, but not that of an open file; the tensors are then not mapped.
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _array(tensor, torch) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


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

    Nothing in the file is executed: `weights_only=True`. One class that is not a tensor is let through,
    `argparse.Namespace`, a bare holder of values in which torchvision's and timm's scripts save their arguments.

    Raises:
        CheckpointError: PyTorch is not installed; the file is damaged, holds more than tensors, or no state dict.
    """
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a PyTorch file, and reading it needs PyTorch: pip install 'flax_augtl[torch]'. "
            "Or convert it to safetensors where PyTorch is installed."
        ) from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # That the loader may not know all of a newer protocol: what it does not know, it refuses below.
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
    state = _state_dict(loaded, torch, path)
    odd = [n for n, t in state.items() if t.is_meta or t.is_sparse or t.is_quantized]
    if odd:
        raise CheckpointError(f"{path} has sparse, quantised or absent tensors, which are not read: {odd[0]}, …")
    return Checkpoint("PyTorch", {name: Tensor.of(_array(tensor, torch)) for name, tensor in state.items()})
