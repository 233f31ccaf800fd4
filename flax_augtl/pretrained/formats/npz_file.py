"""Reads .npz files, one array at a time."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.formats.lazy_tensor import Checkpoint, Storage, Tensor

# The errors of the two libraries for truncated, damaged, encrypted and oddly compressed files.
_DAMAGE = (ValueError, OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def _header(file) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def read_npz(path: Path) -> Checkpoint:
    """Open an .npz file; only the headers of its arrays are read.

    Raises:
      CheckpointError: the file is damaged, or holds Python objects, which are never unpickled.
    """

    def reader(member):
        def read():
            try:
                with zipfile.ZipFile(path) as archive, archive.open(member) as file:
                    return np.lib.format.read_array(file, allow_pickle=False)
            except _DAMAGE as error:
                raise CheckpointError(f"{path}: array {member} is damaged ({error}). Download it again.") from error

        return read

    tensors, objects = {}, []
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    shape, dtype = _header(file)
                name = member.removesuffix(".npy")
                if dtype.hasobject or dtype.kind == "V":
                    objects.append(name)
                tensors[name] = Tensor(shape, dtype, reader(member))
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: the .npz file is damaged ({error}). Download it again.") from error
    if objects:
        raise CheckpointError(
            f"{path} holds Python objects or records ({', '.join(objects[:5])}), which are not read: pickled objects "
            "could run code. Save plain arrays instead."
        )
    return Checkpoint(Storage.NPZ, tensors)
