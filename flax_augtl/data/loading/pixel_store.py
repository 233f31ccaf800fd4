"""Store the pixels of images in memory or in a scratch file."""

import os
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import BinaryIO

import numpy as np


class Store:
    """Stores images of any size until a limit of bytes is reached.

    Threads may read and write at the same time. Images are never removed; those that do not fit are not stored.
    """

    def __init__(self, room: np.ndarray, file: BinaryIO | None = None):
        """Use some memory as the store.

        Args:
          room: uint8 [bytes], the memory; the system allocates it only as it is written to.
          file: the file that is mapped to this memory, if any; images are then written to the file.
        """
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
        """Return the image with a number, uint8 [H, W, 3] and read-only; None if it is not stored."""
        found = self._where.get(number)
        if found is None:
            return None
        start, shape = found
        pixels = self._room[start : start + int(np.prod(shape))].reshape(shape)
        pixels.flags.writeable = False
        return pixels

    def put(self, number: int, pixels: np.ndarray) -> None:
        """Store an image, uint8 [H, W, 3], if it fits."""
        with self._lock:
            start = self._used
            if self._full or number in self._taken or start + pixels.size > len(self._room):
                return
            self._taken.add(number)  # If two threads made the same image, one of them stores it.
            self._used += pixels.size
        if self._file is None:
            self._room[start : start + pixels.size] = pixels.reshape(-1)
        elif not self._written(self._file, start, pixels):
            return
        self._where[number] = (start, pixels.shape)  # From now on other threads find it.

    def _written(self, file: BinaryIO, start: int, pixels: np.ndarray) -> bool:
        """Write to the file, not through its mapping: on a full disk, that would kill the process with SIGBUS."""
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
    """Return a store of at most `size` bytes in the memory of this process."""
    return Store(np.empty(size, np.uint8))


def in_file(size: int, folder: str | Path) -> Store:
    """Return a store of at most `size` bytes in a scratch file, which vanishes when the process ends in any way."""
    file = tempfile.TemporaryFile(dir=folder, prefix="pixels-", buffering=0)
    file.truncate(size)  # A sparse file, which takes up disk only as it fills.
    store = Store(np.memmap(file, np.uint8, "r", shape=(size,)), file)
    weakref.finalize(store, file.close)
    return store
