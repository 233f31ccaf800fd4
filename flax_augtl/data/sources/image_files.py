"""Image files: labelled lists of them, and reading them as a source."""

import dataclasses
import os
from collections.abc import Iterable, Mapping

import numpy as np
from etils import epath
from PIL import Image

from flax_augtl.data.images.decode import MAX_PIXELS, read_picture
from flax_augtl.data.sources.downloads import copy_of, is_url
from flax_augtl.data.types import fingerprint
from flax_augtl.runtime.paths import is_remote


@dataclasses.dataclass(frozen=True, eq=False)
class FileSource:
    """Image files, decoded when asked for.

    Attributes:
        root: what the paths are relative to; "" for absolute ones or those relative to the working directory.
        paths: one an image.
        max_pixels: larger images are refused.
    """

    root: str
    paths: tuple[str, ...]
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Where image `index` is."""
        return placed(self.root, self.paths[index])

    def name(self, index: int) -> str:
        """What to call image `index` where the root is known."""
        return self.paths[index]

    def encoded(self, index: int) -> bytes:
        """The file of image `index`; an `UnreadablePicture` if there is none that can be read."""
        try:
            return epath.Path(_file(self.path(index))).read_bytes()
        except (OSError, ValueError):
            self.read(index)  # Says what is wrong with the file in the words used everywhere.
            raise

    def state(self) -> str:
        """Differs as soon as a file is another one, by name, size or time of change."""
        root = self.root if is_remote(self.root) else os.path.abspath(self.root)
        return fingerprint(root, states_of(self.root, self.paths))

    def read(self, index: int, at_least: tuple[int, int] | None = None) -> Image.Image:
        """Image `index` as RGB; see `decode.read_picture` for `at_least` and the errors."""
        path = self.path(index)
        return read_picture(_file(path), name=path, max_pixels=self.max_pixels, at_least=at_least)

    def stamp(self, index: int) -> str:
        """Return what changes when the file does: its size and the time of its last change."""
        return " ".join(map(str, _size_and_time(self.path(index))))

    def __getitem__(self, index: int) -> Image.Image:
        return self.read(index)


@dataclasses.dataclass(frozen=True)
class Listing:
    """Labelled image files by split, before anything is opened.

    Attributes:
        root: what the paths are relative to.
        class_names: one a class.
        splits: {"train" | "val" | "test" | "all": (paths, labels int32)}, the paths sorted. "all" stands alone: it is
            yet to be split.
        notes: sentences for the log.
        ids: {path: id} of the images whose id is not their path.
        columns: {heading: {path: cell}} of the further columns of a list with a heading.
    """

    root: str
    class_names: tuple[str, ...]
    splits: dict[str, tuple[tuple[str, ...], np.ndarray]]
    notes: tuple[str, ...] = ()
    ids: Mapping[str, str] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)


def placed(root: str, path: str) -> str:
    """Return a listed path with its root before it, unless it is one of the web or of a bucket, or absolute."""
    return path if is_remote(path) else os.path.join(root, path)


def _file(path: str) -> str:
    """Return where the bytes of an image are: of one on the web, its copy."""
    return str(copy_of(path)) if is_url(path) else path


def states_of(root: str, paths: Iterable[str]) -> list[tuple[str, int, int]]:
    """(path, size, time of change in nanoseconds) of each file, −1 for one that is not there."""
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
    status = os.stat(path)  # To the nanosecond, which epath rounds to seconds.
    return status.st_size, status.st_mtime_ns
