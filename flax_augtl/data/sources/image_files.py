"""List labelled image files, and read them as a source."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from etils import epath
from PIL import Image

from flax_augtl.data.images.decode import MAX_PIXELS, read_image
from flax_augtl.data.sources.downloads import copy_of, is_url
from flax_augtl.data.types import fingerprint
from flax_augtl.runtime.paths import is_remote


@dataclasses.dataclass(frozen=True, eq=False)
class FileSource:
    """Image files that are decoded on demand.

    Attributes:
      root: the folder that the paths are relative to; "" if they are absolute or relative to the working directory.
      paths: the path of each image.
      max_pixels: images with more pixels are refused.
    """

    root: str
    paths: tuple[str, ...]
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def path(self, index: int) -> str:
        """Return the path of an image."""
        return placed(self.root, self.paths[index])

    def name(self, index: int) -> str:
        """Return the path of an image relative to the root."""
        return self.paths[index]

    def encoded(self, index: int) -> bytes:
        """Return the bytes of an image file.

        Raises:
          UnreadableImage: the file cannot be read.
        """
        try:
            return epath.Path(_file(self.path(index))).read_bytes()
        except (OSError, ValueError):
            self.read(index)  # Raises the usual error for the file.
            raise

    def state(self, among: Sequence[int] | None = None) -> str:
        """Return a text that changes with the name, size or modification time of any file, or of those `among` them."""
        root = self.root if is_remote(self.root) else os.path.abspath(self.root)
        paths = self.paths if among is None else [self.paths[i] for i in among]
        return fingerprint(root, states_of(self.root, paths))

    def read(self, index: int, at_least: tuple[int, int] | None = None) -> Image.Image:
        """Return an image as RGB; see `decode.read_image` for `at_least` and the errors."""
        path = self.path(index)
        return read_image(_file(path), name=path, max_pixels=self.max_pixels, at_least=at_least)

    def stamp(self, index: int) -> str:
        """Return the size and modification time of an image file, as text."""
        return " ".join(map(str, _size_and_time(self.path(index))))

    def __getitem__(self, index: int) -> Image.Image:
        """Return an image."""
        return self.read(index)


@dataclasses.dataclass(frozen=True)
class Listing:
    """Labelled image files by split, which are not opened yet.

    Attributes:
      root: the folder that the paths are relative to.
      class_names: the name of each class.
      splits: {"train" | "val" | "test" | "all": (paths, labels int32)}, with sorted paths. "all" stands alone and must
        still be split.
      notes: sentences for the log.
      ids: {path: id} for images whose id is not their path.
      columns: {heading: {path: cell}} for the other columns of a list with a heading.
    """

    root: str
    class_names: tuple[str, ...]
    splits: dict[str, tuple[tuple[str, ...], np.ndarray]]
    notes: tuple[str, ...] = ()
    ids: Mapping[str, str] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)


def placed(root: str, path: str) -> str:
    """Join a listed path to its root, unless it is absolute, or on the web or in a bucket."""
    return path if is_remote(path) else os.path.join(root, path)


def _file(path: str) -> str:
    """Return the path of an image file; for one on the web, that of its downloaded copy."""
    return str(copy_of(path)) if is_url(path) else path


def states_of(root: str, paths: Iterable[str]) -> list[tuple[str, int, int]]:
    """Return (path, size, modification time in nanoseconds) of each file; −1 if it does not exist."""
    states = []
    for path in paths:
        try:
            states.append((path, *_size_and_time(placed(root, path))))
        except OSError:
            states.append((path, -1, -1))
    return states


def _size_and_time(path: str) -> tuple[int, int]:
    path = _file(path)
    if is_remote(path):
        status = epath.Path(path).stat()
        return status.length, status.mtime
    status = os.stat(path)  # epath rounds the time to seconds.
    return status.st_size, status.st_mtime_ns
