"""Paths that may lie in a bucket, such as gs://bucket/folder, beside paths of this machine."""

import os
import tempfile
import unicodedata
from pathlib import Path

from etils import epath

from flax_augtl.runtime.text import readable


def is_remote(path: epath.PathLike) -> bool:
    """Tell whether a path is not of this machine's file system."""
    return "://" in os.fspath(path)


def exists(path: epath.PathLike) -> bool:
    """Tell whether there is a file, a folder, or a link that may lead nowhere."""
    return epath.Path(path).exists() if is_remote(path) else os.path.lexists(path)


def is_folder(path: epath.PathLike) -> bool:
    """Tell whether a path is a folder; False for what no path can be."""
    return epath.Path(path).is_dir() if is_remote(path) else os.path.isdir(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Return a path that does not depend on the current directory; `~` is the user's home, as in a shell.

    A path that exists with its names in the other Unicode form is that one.
    """
    return epath.Path(path if is_remote(path) else as_on_disk(os.path.abspath(os.path.expanduser(path))))


def nfc(name: str) -> str:
    """Return a name in the form in which names are compared."""
    return name if name.isascii() else unicodedata.normalize("NFC", readable(name))


class Finder:
    """Finds files whose names the disk has in another Unicode form. Each folder is listed once."""

    def __init__(self):
        self._listed: dict[str, dict[str, str]] = {}

    def __call__(self, path: str | os.PathLike) -> str:
        """Return the path of the file or folder as the disk has it, and `path` itself where there is none."""
        path = os.fspath(path)
        if path.isascii() or exists(path):
            return path
        scheme, separator, rest = path.rpartition("://")
        here = scheme + separator
        for number, part in enumerate(rest.split("/")):
            if part.isascii() or exists(here + part):
                found = part
            else:
                found = self._names(here).get(nfc(part), part)
            here += found + "/" * (number < rest.count("/"))
        return here if exists(here) else path

    def _names(self, folder: str) -> dict[str, str]:
        if folder not in self._listed:
            try:
                inside = (
                    [p.name for p in epath.Path(folder).iterdir()] if is_remote(folder) else os.listdir(folder or ".")
                )
            except OSError:
                inside = []
            self._listed[folder] = {nfc(name): name for name in sorted(inside)}
        return self._listed[folder]


def as_on_disk(path: epath.PathLike) -> epath.PathLike:
    """Return a local path in the Unicode form that the disk has; as it is where nothing has either form."""
    if os.fspath(path).isascii():
        return path
    return Finder()(path)


def cache_folder() -> Path:
    """Return the folder of this user's machine where the package keeps what it can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flax_augtl"


def fetched(path: epath.PathLike, beside: tuple[str, ...] = ()) -> tuple[epath.Path, tempfile.TemporaryDirectory]:
    """Copy a remote file, or the files of a remote folder, to this machine.

    Args:
      path: of the file or folder.
      beside: names of files in the same folder that are copied with a file where they are there.

    Returns:
      The path here, and the folder that holds it, which is gone once that object is.
    """
    path, holder = epath.Path(path), tempfile.TemporaryDirectory(prefix="flax-augtl-")
    here = epath.Path(holder.name)
    folder = path.is_dir()
    wanted = list(path.iterdir()) if folder else [path, *(path.parent / name for name in beside)]
    for source in wanted:
        if source.exists() and not source.is_dir():
            source.copy(here / source.name)
    return (here if folder else here / path.name), holder
