"""Pictures kept as pixels, in memory or in a scratch file."""

import tempfile
import threading
from pathlib import Path

import numpy as np


class Store:
    """A bounded room for pictures of any size, filled as they are first made, never emptied.

    Any thread may read and write. What does not fit is not kept; its maker is asked again.

    Args:
        room: uint8 [bytes], the memory to use; it counts as used only once it is written to.
    """

    def __init__(self, room: np.ndarray):
        self._room = room
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
        """The picture kept under a number, uint8 [H, W, 3] and not to be written to; None if it is not here."""
        found = self._where.get(number)
        if found is None:
            return None
        start, shape = found
        pixels = self._room[start : start + int(np.prod(shape))].reshape(shape)
        pixels.flags.writeable = False
        return pixels

    def put(self, number: int, pixels: np.ndarray) -> None:
        """Keep a picture, uint8 [H, W, 3], if there is room for it."""
        with self._lock:
            start = self._used
            if number in self._taken or start + pixels.size > len(self._room):
                return
            self._taken.add(number)  # Two threads may have made the same picture; one of them keeps it.
            self._used += pixels.size
        self._room[start : start + pixels.size] = pixels.reshape(-1)
        self._where[number] = (start, pixels.shape)  # Only now can another thread find it.


def in_memory(size: int) -> Store:
    """A store of so many bytes at most, in this process's memory."""
    return Store(np.empty(size, np.uint8))


def in_file(size: int, folder: str | Path) -> Store:
    """A store of so many bytes at most in a scratch file, which is gone when the process ends, however it ends."""
    with tempfile.TemporaryFile(dir=folder, prefix="pixels-") as file:
        file.truncate(size)  # Sparse: disk is taken up only as it fills.
        return Store(np.memmap(file, np.uint8, "r+", shape=(size,)))  # The mapping outlives the open file.
