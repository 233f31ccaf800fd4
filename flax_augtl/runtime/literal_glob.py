"""A fix for etils: take the folder in `folder.glob(pattern)` literally, as pathlib does.

etils passes the folder's name to `glob` as a part of the pattern: `[2026]` in it matches nothing, and `*` matches other
folders. Orbax finds the files that it merges in this way, so that checkpoints below such a folder lacked their index.
"""

import functools
import glob
import os
from collections.abc import Iterator

from etils import epath


def take_folders_literally() -> None:
    """Fix `epath.Path.glob` for local folders; calling this again changes nothing."""
    owner = next((kind for kind in epath.Path("folder").__class__.__mro__ if "glob" in vars(kind)), None)
    if owner is None or not owner.__module__.startswith("etils") or hasattr(owner.glob, "__wrapped__"):
        return
    original = owner.glob

    @functools.wraps(original)
    def literal(self: epath.Path, pattern: str) -> Iterator[epath.Path]:
        name = os.fspath(self)
        return original(self if "://" in name else epath.Path(glob.escape(name)), pattern)

    owner.glob = literal
