"""Tells the format of a checkpoint file from its content, since names lie."""

import enum
import zipfile
from pathlib import Path

from flax_augtl.pretrained.errors import CheckpointError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
# Weights compress to some 90 %. An archive that unpacks to more bytes than _BOMB and than _DENSEST times its size is a
# zip bomb.
_BOMB, _DENSEST = 256_000_000, 20
_MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")


class Format(enum.Enum):
    """The file formats of checkpoints."""

    SAFETENSORS = enum.auto()
    NPZ = enum.auto()
    TORCH = enum.auto()
    KERAS_ARCHIVE = enum.auto()
    HDF5 = enum.auto()


def format_of(path: Path) -> Format:
    """Return the format of a file.

    Raises:
      CheckpointError: the file has none of the formats; the message says what it is, if that is known.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    size = path.stat().st_size
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if size == 0:
        raise CheckpointError(f"{path} is empty. Download it again.")
    if text.startswith(b"version https://git-lfs.github.com/spec/"):
        raise CheckpointError(
            f"{path} is a Git-LFS pointer, not the file that it points to. Run `git lfs pull` in its repository, "
            "or download the file itself."
        )
    if text.startswith(_MARKUP):
        raise CheckpointError(
            f"{path} is a web page (HTML or XML), not a checkpoint: the download gave an error or log-in page. "
            "Download it again and look at the address."
        )
    # Before the pickle: a header of 128 + 256 n bytes starts with the same byte as one.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32:
        return Format.SAFETENSORS
    if start.startswith(_HDF5):
        return Format.HDF5
    if start.startswith(_ZIP):
        return _format_of_archive(path)
    if start.startswith(_PICKLE):
        return Format.TORCH
    raise CheckpointError(
        f"{path} is none of the checkpoint formats that are read here (safetensors, npz, PyTorch, Keras HDF5 and "
        f".keras): it starts with {start[:16]!r}."
    )


def _format_of_archive(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            held = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: the archive is cut short or damaged. Download it again.") from error
    if held > max(_BOMB, _DENSEST * path.stat().st_size):
        raise CheckpointError(
            f"{path} is refused: {path.stat().st_size:,} bytes that would become {held:,}. Weights hardly compress; this "
            "is a zip bomb, or no checkpoint."
        )
    if any(name.endswith("/data.pkl") for name in names):
        return Format.TORCH
    if "model.weights.h5" in names:
        return Format.KERAS_ARCHIVE
    if names and all(name.endswith(".npy") for name in names):
        return Format.NPZ
    raise CheckpointError(
        f"{path} is a zip archive, but neither a PyTorch nor a Keras nor an .npz one; it holds {', '.join(names[:5])}."
    )
