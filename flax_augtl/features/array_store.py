"""Rows of activations, in memory or in memory-mapped files that know what they hold and notice damage."""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_augtl.workdir import files

MANIFEST = "manifest.json"
BLOCK = 32  # Rows that are made, and checked, together.


class Store:
    """Arrays of one number of rows, filled block by block.

    Attributes:
      arrays: name → array [rows, ...].
      folder: of the files; None if the arrays are in memory.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[tuple[int, ...], Any]], rows: int, key: str, folder: Path | None = None
    ):
        """Open a store; what its files hold already is checked, block by block.

        Args:
          shapes: name → (shape of a row, dtype).
          rows: number of rows.
          key: of the contents. Files of another key are discarded.
          folder: where the files are; None keeps the arrays in memory.

        Raises:
          CannotWrite: the files cannot be made.
        """
        self.rows, self.folder, self._key = rows, folder, key
        self._sums: dict[str, dict[str, int]] = {}
        shapes = {name: ((rows, *shape), jnp.dtype(dtype)) for name, (shape, dtype) in shapes.items()}
        if folder is None:
            self.arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in shapes.items()}
            return
        found = self._manifest()
        if found:
            self._sums = found["sums"]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.arrays = {name: self._file(name, shape, dtype) for name, (shape, dtype) in shapes.items()}
        except OSError as error:
            raise self._cannot_write(error) from error
        for name in shapes:
            self._drop_damaged(name)

    def _cannot_write(self, error: OSError) -> files.CannotWrite:
        return files.CannotWrite(
            f"The cache in {self.folder} cannot be written: {error.strerror or error}. Free "
            "some disk, lower config.study.cache_gb, or set config.study.cache to memory or "
            "none."
        )

    def _manifest(self) -> dict[str, Any] | None:
        """Return the manifest of the files, if they hold what this store shall hold."""
        try:
            found = json.loads((self.folder / MANIFEST).read_text())
            sums = found["sums"].values()
            return found if found["key"] == self._key and all(isinstance(each, dict) for each in sums) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def _file(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        path, size = self.folder / f"{name}.bin", int(np.prod(shape)) * dtype.itemsize
        if not path.exists() or path.stat().st_size != size:
            self._sums.pop(name, None)
            with path.open("wb") as file:
                file.truncate(size)  # Sparse: disk is taken up only as it fills.
        return np.memmap(path, np.uint8, "r", shape=(size,)).view(dtype).reshape(shape)

    def _drop_damaged(self, name: str) -> None:
        sums = self._sums.setdefault(name, {})
        for block in list(sums):
            known = block.isdecimal() and len(block) < 20 and int(block) * BLOCK < self.rows
            if not known or self._sum(name, int(block)) != sums[block]:
                del sums[block]

    def _sum(self, name: str, block: int) -> int:
        return zlib.crc32(np.ascontiguousarray(self.arrays[name][block * BLOCK : (block + 1) * BLOCK]).view(np.uint8))

    @property
    def bytes(self) -> int:
        """Size of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def missing(self) -> Iterator[tuple[int, int]]:
        """Yield (first row, row after the last) of every block that is not filled."""
        for block in range(-(-self.rows // BLOCK)):
            if any(str(block) not in self._sums.get(name, {}) for name in self.arrays):
                yield block * BLOCK, min((block + 1) * BLOCK, self.rows)

    def put(self, first: int, values: Mapping[str, np.ndarray]) -> None:
        """Fill the block that begins with row `first`.

        Raises:
          CannotWrite: the files cannot be written.
        """
        for name, array in self.arrays.items():
            value = np.ascontiguousarray(values[name], array.dtype)
            if self.folder is None:
                array[first : first + len(value)] = value
            else:
                self._write(name, first * array[0].nbytes, value.view(np.uint8).data)
            self._sums.setdefault(name, {})[str(first // BLOCK)] = self._sum(name, first // BLOCK)

    def _write(self, name: str, offset: int, content: memoryview) -> None:
        """Write into a file, and not through its mapping: on a full disk that would end the process by SIGBUS."""
        try:
            with (self.folder / f"{name}.bin").open("r+b") as file:
                file.seek(offset)
                file.write(content)
        except OSError as error:
            raise self._cannot_write(error) from error

    def flush(self) -> None:
        """Bring what is filled to the disk; another process, or a later start, finds it there.

        Raises:
          CannotWrite: the files cannot be written.
        """
        if self.folder is None:
            return
        try:
            for name in self.arrays:
                with (self.folder / f"{name}.bin").open("r+b") as file:
                    os.fsync(file.fileno())
        except OSError as error:
            raise self._cannot_write(error) from error
        files.write_text(self.folder / MANIFEST, json.dumps({"key": self._key, "sums": self._sums}))
