"""The checksums of a checkpoint: the SHA-256 of every file in its directory, in the format of the command `sha256sum`.

Orbax commits a checkpoint by renaming its directory, and does not notice most bit flips when it restores one. The
checksums are therefore written once the directory is final, and checked before a checkpoint is restored. A directory
without them is not a complete checkpoint; one that does not match them is damaged.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterator
from typing import cast

from etils import epath

from flax_augtl.workdir import checkpoint_index

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write(directory: epath.PathLike) -> None:
    """Write the checksums of a directory whose files are final; the file appears whole or not at all.

    Raises:
      OSError: a file cannot be read, or the checksums cannot be written.
    """
    directory = epath.Path(directory)
    text = "".join(f"{_digest(path)}  {name}\n" for name, path in _files(directory))
    # With a partial file of checksums the checkpoint would look damaged; `_files` leaves this name out.
    partial = directory / f"{NAME}.partial"
    partial.write_text(text)
    partial.replace(directory / NAME)


def exists(directory: epath.PathLike) -> bool:
    """Return whether a directory has checksums."""
    return (epath.Path(directory) / NAME).exists()


def damage(directory: epath.PathLike) -> str:
    """Return how a checkpoint's directory is damaged, as a phrase; the empty string if it is not.

    Every file must match its checksum, and the arrays must have their index.
    """
    directory = epath.Path(directory)
    path = directory / NAME
    try:
        if link := next(_links(directory), None):
            return f"{link} is a link"
        if not path.exists():
            return f"it has no {NAME}, which is written last"
        listed = {}
        for line in path.read_text().splitlines():
            match = _LINE.fullmatch(line)
            if not match:
                return f"{NAME} is damaged"
            listed[match[2]] = match[1]
        found = dict(_files(directory))
        if missing := sorted(set(listed) - set(found)):
            return f"{missing[0]} is missing"
        if foreign := sorted(set(found) - set(listed)):
            return f"{foreign[0]} is not in {NAME}"
        # Take names from the directory, as names in the file of checksums could lead out of it.
        for name, file in found.items():
            if _digest(file) != listed[name]:
                return f"{name} is damaged: its SHA-256 is not the one in {NAME}"
        return checkpoint_index.missing_index(directory)
    except (OSError, UnicodeDecodeError) as error:
        return f"it cannot be read ({error})"


def _digest(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()


def _files(directory: epath.Path) -> Iterator[tuple[str, epath.Path]]:
    """Yield (name relative to the directory, path) of every file except the checksums."""
    folders = [(directory, "")]
    while folders:
        folder, prefix = folders.pop()
        for path in sorted(folder.iterdir()):
            name = prefix + path.name
            if path.is_dir():
                folders.append((path, f"{name}/"))
            elif name not in (NAME, f"{NAME}.partial"):
                yield name, path


def _links(directory: epath.Path) -> Iterator[str]:
    """Yield the names of the symbolic links in a directory; object stores have none."""
    if "://" in os.fspath(directory):
        return
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                yield os.path.relpath(path, directory)
