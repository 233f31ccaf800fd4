"""Paths that may lie in a bucket, such as gs://bucket/folder, beside paths of this machine."""

import os
import tempfile
from pathlib import Path

from etils import epath


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
    """Return a path that does not depend on the current directory; `~` is the user's home, as in a shell."""
    return epath.Path(path if is_remote(path) else os.path.abspath(os.path.expanduser(path)))


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
