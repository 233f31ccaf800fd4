"""Paths, local or in a bucket such as gs://bucket/folder."""

import os
import tempfile
import unicodedata
from pathlib import Path

from etils import epath

from flax_augtl.runtime.text import readable


def is_remote(path: epath.PathLike) -> bool:
    """Return whether a path is not in the local file system."""
    return "://" in os.fspath(path)


def exists(path: epath.PathLike) -> bool:
    """Return whether there is a file, a folder, or a link, even a broken one."""
    return epath.Path(path).exists() if is_remote(path) else os.path.lexists(path)


def is_folder(path: epath.PathLike) -> bool:
    """Return whether a path is a folder; False for an invalid path."""
    return epath.Path(path).is_dir() if is_remote(path) else os.path.isdir(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Return an absolute path; `~` is the user's home, as in a shell.

    If only the path in another Unicode form exists, return that one.
    """
    return epath.Path(path if is_remote(path) else as_on_disk(os.path.abspath(os.path.expanduser(path))))


def nfc(name: str) -> str:
    """Return a name in NFC, the Unicode form for comparing names."""
    return name if name.isascii() else unicodedata.normalize("NFC", readable(name))


class Finder:
    """Finds files whose names on disk have another Unicode form; lists each folder only once."""

    def __init__(self):
        self._listed: dict[str, dict[str, str]] = {}

    def __call__(self, path: str | os.PathLike) -> str:
        """Return the path of the file or folder as it is on disk, or `path` itself if there is none."""
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
    """Return a local path in its Unicode form on disk, or `path` itself if it does not exist in any form."""
    if os.fspath(path).isascii():
        return path
    return Finder()(path)


def cache_folder() -> Path:
    """Return the package's cache folder for this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flax_augtl"


def fetched(path: epath.PathLike, beside: tuple[str, ...] = ()) -> tuple[epath.Path, tempfile.TemporaryDirectory]:
    """Copy a remote file, or the files of a remote folder, to this machine.

    Args:
      path: the file or folder.
      beside: names of files in the same folder to copy with a file, if they exist.

    Returns:
      The local path, and the temporary folder that holds it, which is removed together with that object.
    """
    path, holder = epath.Path(path), tempfile.TemporaryDirectory(prefix="flax-augtl-")
    here = epath.Path(holder.name)
    folder = path.is_dir()
    wanted = list(path.iterdir()) if folder else [path, *(path.parent / name for name in beside)]
    for source in wanted:
        if source.exists() and not source.is_dir():
            source.copy(here / source.name)
    return (here if folder else here / path.name), holder
