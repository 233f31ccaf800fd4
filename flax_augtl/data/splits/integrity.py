"""Scan every image once before the splits are made: check that it can be read, and compute its hashes.

So unreadable images cannot change the number of steps later. The results are stored until a file changes.
"""

import dataclasses
import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from flax_augtl.data.errors import DataError, UnreadableImage, listed
from flax_augtl.data.images import tiff
from flax_augtl.data.images.decode import read_image, upright_size
from flax_augtl.data.splits.image_hash import HASH_BYTES, THUMB_SIDE, VERSION, describe, shrunk
from flax_augtl.data.types import fingerprint
from flax_augtl.runtime.paths import cache_folder

_VERSION = (3, VERSION)  # Version of the stored results.
_GRID = 4
_TENTH = 25  # A tenth of the 255 steps between black and white.


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """Results of scanning n images.

    Attributes:
      bad: {position in the source: why the image cannot be read}.
      digests: uint8 [n, 16], a hash of the bytes of each file; zeros if it cannot be read.
      sizes: int32 [n, 2], width and height of the upright image.
      looks: uint8 [n, 48], the mean colours of a 4 × 4 grid, nearly equal for equal pixels in any format.
      hashes: uint8 [n, 2, 32], perceptual hashes of each image and of its mirror image, see `image_hash`.
      thumbs: uint8 [n, 256], a grey thumbnail of each image.
      flat: bool [n], whether the image uses less than a tenth of the range from black to white.
      stacked: bool [n], whether the file is a TIFF with several pages.
    """

    bad: dict[int, str]
    digests: np.ndarray
    sizes: np.ndarray
    looks: np.ndarray
    hashes: np.ndarray
    thumbs: np.ndarray
    flat: np.ndarray
    stacked: np.ndarray


class Encoded(Protocol):
    """A source whose images are files, or records of one file."""

    @property
    def max_pixels(self) -> int:
        """The largest number of pixels that an image may have."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def path(self, index: int) -> str:
        """Return where an image is, as text."""
        ...

    def name(self, index: int) -> str:
        """Return what to call an image where the place of all of them is known."""
        ...

    def encoded(self, index: int) -> bytes:
        """Return the bytes of an image file."""
        ...

    def state(self, among: Sequence[int] | None = None) -> str:
        """Return a text that changes as soon as an image does; `among` limits it to some images."""
        ...


def scan(
    source: Encoded,
    on_bad_image: str = "error",
    remember_in: str | Path | None = None,
    among: np.ndarray | None = None,
) -> Scan:
    """Read and decode every image, in parallel.

    Args:
      source: the image files.
      on_bad_image: "error" or "skip".
      remember_in: the folder that stores the results; None for the user's cache folder, "" for none.
      among: int [m], positions of the images that must be readable; None for all.

    Raises:
      DataError: images cannot be read and `on_bad_image` is "error"; an `UnreadableImage` if it is one image. The
        message has the path and the reason of the first, and up to nine more paths.
    """
    folder = scan_folder(remember_in)
    state = fingerprint(_VERSION, Image.__version__, source.max_pixels, source.state())
    memory = folder / f"{state}.npz" if folder else None
    seen = _remembered(memory, len(source)) if memory else None
    if seen is None:
        seen = _look_at_all(source)
        if memory:
            _remember(memory, seen)
    if among is not None:
        seen = dataclasses.replace(seen, bad={i: seen.bad[i] for i in among.tolist() if i in seen.bad})
    if seen.bad and on_bad_image == "error":
        raise _error(source, seen.bad)
    return seen


def note(skipped: Mapping[str, str], of: int) -> str:
    """Return a note about the skipped images, {name: reason}, of a total of `of`."""
    named = listed(f"{name} ({reason})" for name, reason in skipped.items())
    return f"{len(skipped)} of {of} images cannot be read and are left out: {named}."


def remarks(source: Encoded, seen: Scan, among: np.ndarray | None = None) -> tuple[str, ...]:
    """Return notes about readable images that may look wrong; `among`, int [m], limits them to some positions."""
    among = np.arange(len(source)) if among is None else among
    said = []
    for which, what in (
        (seen.flat, "use less than a tenth of the range from black to white, such as 12-bit values in a 16-bit file, "
                    "which look black; scale their values if that is not intended"),
        (seen.stacked, "are TIFFs of several pages, of which the first is used"),
    ):  # fmt: skip
        found = among[which[among]].tolist()
        if found:
            said.append(f"{len(found)} of {len(among)} images {what}: {listed(source.name(i) for i in found)}.")
    return tuple(said)


def scan_folder(remember_in: str | Path | None) -> Path | None:
    """Return the folder that stores results, given config.data.scan_dir; None if they are not stored."""
    return cache_folder() / "scans" if remember_in is None else Path(remember_in) if remember_in else None


def _look_at_all(source: Encoded) -> Scan:
    n = len(source)
    digests, looks = np.zeros((n, 16), np.uint8), np.zeros((n, 3 * _GRID * _GRID), np.uint8)
    hashes, thumbs = np.zeros((n, 2, HASH_BYTES), np.uint8), np.zeros((n, THUMB_SIDE**2), np.uint8)
    sizes, bad = np.zeros((n, 2), np.int32), {}
    flat, stacked = np.zeros(n, bool), np.zeros(n, bool)

    def look(i: int) -> str | None:
        try:
            content = source.encoded(i)
            image = read_image(content, name=source.path(i), max_pixels=source.max_pixels, at_least=(256, 256))
        except UnreadableImage as error:
            return error.reason
        digests[i] = np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), np.uint8)
        small = shrunk(image)
        looks[i] = np.asarray(small.resize((_GRID, _GRID), Image.Resampling.BOX)).ravel()
        hashes[i], thumbs[i] = describe(small)
        sizes[i] = _full_size(content) if content.startswith(b"\xff\xd8") else image.size
        least, most = np.array(image.getextrema()).T
        flat[i] = most.max() - least.min() < _TENTH
        stacked[i] = tiff.is_tiff(content) and tiff.has_more_pages(content)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found: Iterable[str | None] = pool.map(look, range(n))
        for i, reason in enumerate(tqdm(found, "Scanning images", n, leave=False, delay=2, mininterval=1, unit="")):
            if reason:
                bad[i] = reason
    return Scan(bad, digests, sizes, looks, hashes, thumbs, flat, stacked)


def _full_size(content: bytes) -> tuple[int, int]:
    """Return the upright size of a JPEG, which may have been decoded at a smaller size."""
    with Image.open(io.BytesIO(content)) as image:
        return upright_size(image)


def _remembered(memory: Path, n: int) -> Scan | None:
    try:
        found = load_arrays(memory)
        bad = dict(zip(found.pop("bad").tolist(), found.pop("reasons").tolist(), strict=True))
        seen = Scan(bad, **found)
    except (ValueError, KeyError, TypeError):
        return None
    return seen if len(seen.digests) == n else None


def _remember(memory: Path, seen: Scan) -> None:
    arrays = {field.name: getattr(seen, field.name) for field in dataclasses.fields(seen) if field.name != "bad"}
    bad, reasons = np.array(list(seen.bad), np.int64), np.array(list(seen.bad.values()), np.str_)
    save_arrays(memory, bad=bad, reasons=reasons, **arrays)


def load_arrays(memory: Path) -> dict[str, np.ndarray]:
    """Return the arrays that `save_arrays` stored; none if there is no such file, or it is incomplete."""
    try:
        with np.load(io.BytesIO(memory.read_bytes()), allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def save_arrays(memory: Path, **arrays: np.ndarray) -> None:
    """Store arrays in a file; if that fails, the next run computes them again."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        # A full disk must not leave an incomplete file.
        with tempfile.TemporaryDirectory(dir=memory.parent) as folder, open(Path(folder) / memory.name, "wb") as file:
            content: dict[str, Any] = dict(arrays)  # Tells the type checker that none is allow_pickle.
            np.savez(file, **content)
            file.close()
            os.replace(file.name, memory)
    except OSError:
        pass


def _error(source: Encoded, bad: dict[int, str]) -> DataError:
    first = next(iter(bad))
    error = UnreadableImage(source.path(first), bad[first])
    others = list(bad)[1:]
    if not others:
        return error
    names = listed((source.name(i) for i in others), 9)
    return DataError(f"{error} There {'is' if len(others) == 1 else 'are'} {len(others)} more: {names}.")
