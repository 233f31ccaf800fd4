"""A text file that is written piece by piece as NAME.partial, and renamed to NAME when it is complete.

A later start of the program continues what an interrupted one has written, if it does the same: beside the file,
NAME.partial.json says what it is part of, and how much of it counts. In a bucket, where nothing can be appended, the file
is written on this machine and copied when it is complete; an interrupted start then leaves nothing.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from etils import epath

from flax_augtl.errors import UserError
from flax_augtl.runtime.paths import is_remote
from flax_augtl.workdir import files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PARTIAL = ".partial"


class PartialFile:
    """A file that grows; `opened` makes it.

    Attributes:
      path: of the complete file.
      done: number of items whose text an earlier start has written.
      note: a sentence for the user if an earlier start is continued or dropped, else empty.
    """

    def __init__(self, path: epath.Path, file: BinaryIO, place: str, key: Mapping[str, str]):
        """Take an open file that is empty, at `place`, whose content `key` identifies."""
        self.path, self.done, self.note = path, 0, ""
        self._file, self._place, self._key, self._bytes, self._items = file, place, dict(key), 0, 0

    @property
    def _record(self) -> str:
        return f"{self._place}.json"

    def append(self, text: str, items: int = 0) -> None:
        """Write the text of some more items.

        Raises:
          CannotWrite: the disk is full, for instance.
        """
        content = text.encode("utf-8", "backslashreplace")
        try:
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise files.cannot_write(self._place, error) from error
        self._bytes += len(content)
        self._items += items
        if not is_remote(self.path):
            record = {"of": self._key, "items": self._items, "bytes": self._bytes}
            files.write_text(self._record, json.dumps(record) + "\n")

    def text(self) -> Iterator[str]:
        """Yield the lines that are written so far, with their ends."""
        with open(self._place, encoding="utf-8", newline="") as file:
            yield from file

    def complete(self) -> None:
        """Give the file its name.

        Raises:
          CannotWrite: that is not possible.
        """
        try:
            if is_remote(self.path):
                epath.Path(self._place).copy(self.path, overwrite=True)
            else:
                os.replace(self._place, self.path)
                os.unlink(self._record)
        except OSError as error:
            raise files.cannot_write(self.path, error) from error

    def drop(self) -> None:
        """Remove what is written so far."""
        with contextlib.suppress(OSError):
            os.unlink(self._place)
            os.unlink(self._record)

    def resume(self) -> None:
        """Go on after what an earlier start has written, if it belongs to the same key; else start anew."""
        record = self._record_before()
        before, items, size = record or ({}, 0, 0)
        other = [name for name in self._key if record and before.get(name) != self._key[name]]
        if not record or other:
            self._file.truncate(0)
            if other:
                told = " and ".join(_difference(name, before.get(name), self._key[name]) for name in other)
                self.note = f"{self._place} is part of something else and is dropped: {told}."
            return
        self._file.truncate(size)
        self._file.seek(0, os.SEEK_END)
        self.done = self._items = items
        self._bytes = size

    def _record_before(self) -> tuple[dict[str, Any], int, int] | None:
        """Return (key, items, bytes) of an earlier start; None if there is nothing to continue."""
        try:
            record = json.loads(epath.Path(self._record).read_text())
            before, items, size = record["of"], int(record["items"]), int(record["bytes"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        # After a power failure, the file may have less than the record says.
        whole = isinstance(before, dict) and 0 < size <= os.fstat(self._file.fileno()).st_size and items > 0
        return (before, items, size) if whole else None


def _difference(name: str, before: Any, now: str) -> str:
    """Return what differs, with the values of a flag; other values are digits that mean nothing to the user."""
    return f"{name}: {before} there, {now} here" if name.startswith("--") else f"{name} has changed"


@contextlib.contextmanager
def opened(path: epath.Path, key: Mapping[str, str]) -> Iterator[PartialFile]:
    """Open the partial file of `path` within a with statement; without `complete`, it is left for a later start.

    Args:
      path: of the complete file.
      key: what the content depends on, by name; a start with another key drops what an earlier one has written.

    Raises:
      UserError: another program is writing it.
      CannotWrite: it cannot be written.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="flax-augtl-") as folder:
            place = os.path.join(folder, path.name)
            with open(place, "w+b") as file:
                yield PartialFile(path, file, place, key)
        return
    place = os.fspath(path) + PARTIAL
    try:
        # Do not follow a link to a file that is not ours.
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError as error:
        raise files.CannotWrite(f"{files.cannot_write(place, error)} --output=FILE writes to another place.") from error
    with os.fdopen(descriptor, "r+b") as file:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{place} is in use: another program is writing it. Wait for it, or choose another --output=FILE."
                ) from None
            except OSError:
                pass  # The file system has no locks.
        partial = PartialFile(path, file, place, key)
        partial.resume()
        yield partial
