"""Reads safetensors files, mapped into memory."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.formats.lazy_tensor import Checkpoint, Storage, Tensor

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_safetensors(path: Path) -> Checkpoint:
    """Open a safetensors file.

    Raises:
      CheckpointError: the file is cut short or damaged, or has tensors of an unsupported type.
    """
    try:
        with safe_open(path, "numpy") as file:  # Checks the header, and that every tensor is inside the file.
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: the safetensors file is cut short or damaged ({error}). Download or write it again."
        ) from error
    # Map the bytes, since safe_open's NumPy tensors are copies: for VGG's fc6, 411 MB more.
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    odd = sorted({entry["dtype"] for entry in header.values()} - set(_DTYPES))
    if odd:
        raise CheckpointError(f"{path}: tensors of type {', '.join(odd)} are not read. Convert them to float32.")
    tensors = {}
    mapped = np.memmap(path, np.uint8, "r", offset=8 + size) if header else np.empty(0, np.uint8)
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        array = mapped[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = Tensor.of(array)
    return Checkpoint(Storage.SAFETENSORS, tensors, metadata)
