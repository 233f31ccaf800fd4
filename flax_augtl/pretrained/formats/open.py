"""Opens a checkpoint file of any format."""

from pathlib import Path

from flax_augtl.pretrained.formats.keras_file import read_keras
from flax_augtl.pretrained.formats.lazy_tensor import Checkpoint
from flax_augtl.pretrained.formats.npz_file import read_npz
from flax_augtl.pretrained.formats.safetensors_file import read_safetensors
from flax_augtl.pretrained.formats.sharded import part_files
from flax_augtl.pretrained.formats.sniff import Format, format_of
from flax_augtl.pretrained.formats.torch_file import read_torch


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint file; its content decides the format, whatever its name.

    The index of a checkpoint in several files stands for all of them.

    Raises:
      CheckpointError: the file has no supported format, is damaged, or needs an extra that is not installed.
    """
    if parts := part_files(path):
        opened = [open_checkpoint(part) for part in parts]
        tensors = {name: tensor for one in opened for name, tensor in one.tensors.items()}
        metadata = {key: value for one in opened for key, value in one.metadata.items()}
        return Checkpoint(opened[0].storage, tensors, metadata, len(parts))
    match format_of(path):
        case Format.SAFETENSORS:
            return read_safetensors(path)
        case Format.NPZ:
            return read_npz(path)
        case Format.TORCH:
            return read_torch(path)
        case Format.KERAS_ARCHIVE:
            return read_keras(path, archived=True)
        case Format.HDF5:
            return read_keras(path, archived=False)
