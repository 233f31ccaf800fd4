"""Images kept as pixels, in memory or in a scratch file."""

import os
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import BinaryIO

import numpy as np


class Store:
    """A bounded room for images of any size, filled as they are first made, never emptied.

    Any thread may read and write. What does not fit is not kept; its maker is asked again.

    Args:
        room: uint8 [bytes], the memory to use; it counts as used only once it is written to.
        file: that is mapped there, if one is; it takes the place of writing to the memory.
    """

    def __init__(self, room: np.ndarray, file: BinaryIO | None = None):
        self._room, self._file = room, file
        self._full = False
        self._used = 0
        self._taken: set[int] = set()
        self._where: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._where)

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._used

    def get(self, number: int) -> np.ndarray | None:
        """The image kept under a number, uint8 [H, W, 3] and not to be written to; None if it is not here."""
        found = self._where.get(number)
        if found is None:
            return None
        start, shape = found
        pixels = self._room[start : start + int(np.prod(shape))].reshape(shape)
        pixels.flags.writeable = False
        return pixels

    def put(self, number: int, pixels: np.ndarray) -> None:
        """Keep an image, uint8 [H, W, 3], if there is room for it."""
        with self._lock:
            start = self._used
            if self._full or number in self._taken or start + pixels.size > len(self._room):
                return
            self._taken.add(number)  # Two threads may have made the same image; one of them keeps it.
            self._used += pixels.size
        if self._file is None:
            self._room[start : start + pixels.size] = pixels.reshape(-1)
        elif not self._written(self._file, start, pixels):
            return
        self._where[number] = (start, pixels.shape)  # Only now can another thread find it.

    def _written(self, file: BinaryIO, start: int, pixels: np.ndarray) -> bool:
        """Write into the file, not through its mapping, which on a full disk would end the process by SIGBUS."""
        content = np.ascontiguousarray(pixels).data.cast("B")
        try:
            while content:
                written = os.pwrite(file.fileno(), content, start)
                content, start = content[written:], start + written
        except OSError as error:
            with self._lock:
                first, self._full = not self._full, True
            if first:
                print(
                    f"The scratch file of config.data.cache is full at {self._used / 1e9:.2f} GB: "
                    f"{error.strerror or error}. The other images are decoded again in every epoch.",
                    file=sys.stderr,
                )
            return False
        return True


def in_memory(size: int) -> Store:
    """A store of so many bytes at most, in this process's memory."""
    return Store(np.empty(size, np.uint8))


def in_file(size: int, folder: str | Path) -> Store:
    """A store of so many bytes at most in a scratch file, which is gone when the process ends, however it ends."""
    file = tempfile.TemporaryFile(dir=folder, prefix="pixels-", buffering=0)
    file.truncate(size)  # Sparse: disk is taken up only as it fills.
    store = Store(np.memmap(file, np.uint8, "r", shape=(size,)), file)
    weakref.finalize(store, file.close)
    return store
