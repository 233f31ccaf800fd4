"""Arrays of activations, in memory or in memory-mapped files with checksums."""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_augtl.workdir import files

CHECKSUMS = "manifest.json"
BLOCK = 32  # So many rows are computed, and checked, together.


class Store:
    """Arrays with the same number of rows, filled block by block.

    Attributes:
      arrays: name → array [rows, ...].
      folder: of the files; None if the arrays are in memory.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[tuple[int, ...], Any]],
        rows: int,
        key: str,
        folder: Path | None = None,
        section: str = "study",
    ):
        """Open a store, and check every block that its files already hold.

        Args:
          shapes: name → (shape of a row, dtype).
          rows: number of rows.
          key: of the contents; files with another key are discarded.
          folder: where the files are; None keeps the arrays in memory.
          section: of the configuration that has the settings of this cache, for error messages.

        Raises:
          CannotWrite: the files cannot be created.
        """
        self.rows, self.folder, self._key, self._section = rows, folder, key, section
        self._sums: dict[str, dict[str, int]] = {}
        shapes = {name: ((rows, *shape), jnp.dtype(dtype)) for name, (shape, dtype) in shapes.items()}
        if folder is None:
            self.arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in shapes.items()}
            return
        self._sums = self._checksums(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.arrays = {
                name: self._file(folder / f"{name}.bin", name, shape, dtype) for name, (shape, dtype) in shapes.items()
            }
        except OSError as error:
            raise self._cannot_write(error) from error
        for name in shapes:
            self._drop_damaged(name)

    def _cannot_write(self, error: OSError) -> files.CannotWrite:
        return files.CannotWrite(
            f"The cache in {self.folder} cannot be written: {error.strerror or error}. Free "
            f"some disk, lower config.{self._section}.cache_gb, or set config.{self._section}.cache to memory or "
            "none."
        )

    def _checksums(self, folder: Path) -> dict[str, dict[str, int]]:
        """Return the checksums of the files, {array: {block: checksum}}; empty if the files have another key."""
        try:
            found = json.loads((folder / CHECKSUMS).read_text())
            sums = found["sums"]
            return sums if found["key"] == self._key and all(isinstance(each, dict) for each in sums.values()) else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def _file(self, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return a file as a memory-mapped array; create it if it is missing or has another size."""
        size = int(np.prod(shape)) * dtype.itemsize
        if not path.exists() or path.stat().st_size != size:
            self._sums.pop(name, None)
            with path.open("wb") as file:
                file.truncate(size)  # Sparse: it takes disk space only as it fills.
        return np.memmap(path, np.uint8, "r", shape=(size,)).view(dtype).reshape(shape)

    def _drop_damaged(self, name: str) -> None:
        """Forget the blocks of an array whose checksum is wrong."""
        sums = self._sums.setdefault(name, {})
        for block in list(sums):
            known = block.isdecimal() and len(block) < 20 and int(block) * BLOCK < self.rows
            if not known or self._sum(name, int(block)) != sums[block]:
                del sums[block]

    def _sum(self, name: str, block: int) -> int:
        rows = self.arrays[name][block * BLOCK : (block + 1) * BLOCK]
        return zlib.crc32(np.ascontiguousarray(rows).view(np.uint8).data)

    @property
    def bytes(self) -> int:
        """Size of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def missing(self) -> Iterator[tuple[int, int]]:
        """Yield (first row, row after the last) of every block that is not filled yet."""
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
                self._write(self.folder / f"{name}.bin", first * array[0].nbytes, value.view(np.uint8).data)
            self._sums.setdefault(name, {})[str(first // BLOCK)] = self._sum(name, first // BLOCK)

    def _write(self, path: Path, offset: int, content: memoryview) -> None:
        """Write into a file, not through its mapping: on a full disk that would end the process by SIGBUS."""
        try:
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(content)
        except OSError as error:
            raise self._cannot_write(error) from error

    def flush(self) -> None:
        """Write what is filled to the disk, where other processes and later starts find it.

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
        files.write_text(self.folder / CHECKSUMS, json.dumps({"key": self._key, "sums": self._sums}))
