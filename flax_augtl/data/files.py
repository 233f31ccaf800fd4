"""Picture files: finding them, and reading them as a source."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from etils import epath
from PIL import Image

from flax_augtl.data.downloads import copy_of, is_url
from flax_augtl.data.examples import fingerprint
from flax_augtl.data.pictures import MAX_PIXELS, SUFFIXES, read_picture
from flax_augtl.paths import is_remote

_MESS = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclasses.dataclass(frozen=True, eq=False)
class FileSource:
    """Picture files, decoded when asked for.

    Attributes:
        root: what the paths are relative to; "" for absolute ones or those relative to the working directory.
        paths: one a picture.
        max_pixels: larger pictures are refused.
    """

    root: str
    paths: tuple[str, ...]
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Where picture `index` is."""
        return placed(self.root, self.paths[index])

    def name(self, index: int) -> str:
        """What to call picture `index` where the root is known."""
        return self.paths[index]

    def encoded(self, index: int) -> bytes:
        """The file of picture `index`; an `UnreadablePicture` if there is none that can be read."""
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
        """Picture `index` as RGB; see `pictures.read_picture` for `at_least` and the errors."""
        path = self.path(index)
        return read_picture(_file(path), name=path, max_pixels=self.max_pixels, at_least=at_least)

    def stamp(self, index: int) -> str:
        """Return what changes when the file does: its size and the time of its last change."""
        return " ".join(map(str, _size_and_time(self.path(index))))

    def __getitem__(self, index: int) -> Image.Image:
        return self.read(index)


@dataclasses.dataclass(frozen=True)
class Listing:
    """Labelled picture files by split, before anything is opened.

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


def picture_paths(folder: str | Path) -> tuple[list[str], list[str]]:
    """Every file below a folder that is a picture by its ending, and every other file that is no known litter.

    Hidden files and folders, `Thumbs.db` and the like are passed over. Links to folders are followed, each folder once.

    Returns:
        (pictures, others): paths relative to `folder` with "/" between the parts, each list sorted.
    """
    pictures, others = [], []
    for path in _walk_remote(epath.Path(folder)) if is_remote(folder) else _walk(Path(folder), "", set()):
        (pictures if os.path.splitext(path)[1].lower() in SUFFIXES else others).append(path)
    return sorted(pictures), sorted(others)


def folders(folder: str | Path) -> list[str]:
    """The names of the sub-folders that are not hidden and no litter, sorted."""
    if is_remote(folder):
        return sorted(path.name for path in epath.Path(folder).iterdir() if not _is_mess(path.name) and path.is_dir())
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not _is_mess(entry.name) and entry.is_dir())


def _walk(folder: Path, prefix: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return  # A link that leads back up would never end.
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if _is_mess(entry.name):
                continue
            if entry.is_dir():
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", seen)
            else:
                yield prefix + entry.name


def _walk_remote(folder: epath.Path) -> Iterator[str]:
    """The listing of a bucket comes as a whole: to ask for what each path is would take a request a picture."""
    top = _without_scheme(folder)
    for here, _, names in folder.walk():
        # epath's own backend for buckets leaves the scheme out here.
        parts = [part for part in _without_scheme(here)[len(top):].split("/") if part]
        if not any(_is_mess(name) for name in parts):
            yield from ("/".join((*parts, name)) for name in names if not _is_mess(name))


def _without_scheme(path: epath.Path) -> str:
    return os.fspath(path).rpartition("://")[2].rstrip("/")


def _is_mess(name: str) -> bool:
    return name.startswith(".") or name.lower() in _MESS
