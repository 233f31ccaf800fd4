"""What kind of checkpoint a file is, told by its content: names lie."""

import zipfile
from pathlib import Path

from flax_augtl.pretrained.errors import CheckpointError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
# Weights compress to some 90 %; an archive that unpacks to more than this, and to so many times its size, is a bomb.
_BOMB, _DENSEST = 256_000_000, 20
_MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")


def kind_of(path: Path) -> str:
    """Return "safetensors", "npz", "torch", "keras" (a zip archive) or "hdf5".

    Raises:
        CheckpointError: the file is none of them; the message says what it is, where that can be told.
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
        return "safetensors"
    if start.startswith(_HDF5):
        return "hdf5"
    if start.startswith(_ZIP):
        return _kind_of_archive(path)
    if start.startswith(_PICKLE):
        return "torch"
    raise CheckpointError(
        f"{path} is none of the checkpoint formats that are read here (safetensors, npz, PyTorch, Keras HDF5 and "
        f".keras): it starts with {start[:16]!r}."
    )


def _kind_of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            held = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: the archive is cut short or damaged. Download it again.") from error
    if held > max(_BOMB, _DENSEST * path.stat().st_size):
        raise CheckpointError(
            f"{path} is refused: {path.stat().st_size:,} bytes that would become {held:,}. Weights hardly compress; this is "
            "a zip bomb, or no checkpoint."
        )
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if "model.weights.h5" in names:
        return "keras"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise CheckpointError(
        f"{path} is a zip archive, but neither a PyTorch nor a Keras nor an .npz one; it holds {', '.join(names[:5])}."
    )
