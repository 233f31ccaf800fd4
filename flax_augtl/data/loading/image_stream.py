"""Prepare many images ahead of the device that reads them, in order, in threads or worker processes.

Unlike the loader's batches, a stream needs no labels, takes images from any iterator, and starts before it is read. This
module imports neither JAX nor Grain.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.images import inputs
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.data.images.transforms import Path, evaluation_path
from flax_augtl.data.loading.maker import make
from flax_augtl.data.loading.workers import Workers
from flax_augtl.data.types import Source

# Images that a thread or worker prepares at a time.
_CHUNK = 8
# Bytes of prepared images that may wait to be read, and at least two batches: enough to prepare images while the
# program loads the network.
_AHEAD = 64_000_000


class Prepared(NamedTuple):
    """Some prepared images.

    Attributes:
      pixels: uint8 [n, S, S, 3], or [n, crops, S, S, 3]; an image that cannot be read is black.
      unreadable: {row: reason} of the images that cannot be read.
    """

    pixels: np.ndarray
    unreadable: dict[int, str]


class ImageStream:
    """Batches of prepared images, in order; threads prepare them from the moment that the stream is made.

    A bounded number of images waits to be read. Use it in a with statement, or call `close`.
    """

    def __init__(
        self,
        items: Iterable[Any],
        prepare: Callable[[list[Any]], Prepared],
        *,
        batch_size: int,
        threads: int,
        ahead: int,
        close: Callable[[], None] = lambda: None,
    ):
        """Start to prepare images.

        Args:
          items: what `prepare` makes images of; they are taken when there is room for their images.
          prepare: makes the images of some items; called in threads.
          batch_size: images per batch; the last batch may have fewer.
          threads: number of threads.
          ahead: number of images that may wait, in addition to the batch that is read.
          close: called at the end.
        """
        self._items, self._prepare, self._size, self._close = iter(items), prepare, batch_size, close
        self._chunk = min(_CHUNK, batch_size)
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="images")
        self._waiting: deque[Future[Prepared]] = deque()
        self._room = max(1, ahead // self._chunk)
        self._fill()

    def _fill(self) -> None:
        while len(self._waiting) < self._room:
            if not (some := list(itertools.islice(self._items, self._chunk))):
                return
            self._waiting.append(self._pool.submit(self._prepare, some))

    def __iter__(self) -> Iterator[Prepared]:
        """Yield the batches."""
        rest: list[Prepared] = []
        count = 0
        while self._waiting:
            found = self._waiting.popleft().result()
            self._fill()
            rest.append(found)
            count += len(found.pixels)
            while count >= self._size:
                whole = _joined(rest)
                yield _part(whole, 0, self._size)
                count -= self._size
                rest = [_part(whole, self._size, len(whole.pixels))] if count else []
        if count:
            yield _joined(rest)

    def close(self) -> None:
        """Stop preparing images."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._close()

    def __enter__(self) -> "ImageStream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _joined(parts: Sequence[Prepared]) -> Prepared:
    if len(parts) == 1:
        return parts[0]
    unreadable, first = {}, 0
    for part in parts:
        unreadable |= {first + row: reason for row, reason in part.unreadable.items()}
        first += len(part.pixels)
    return Prepared(np.concatenate([part.pixels for part in parts]), unreadable)


def _part(whole: Prepared, start: int, stop: int) -> Prepared:
    return Prepared(
        whole.pixels[start:stop],
        {row - start: reason for row, reason in whole.unreadable.items() if start <= row < stop},
    )


def view_path(preprocessing: Preprocessing, views: str) -> Path:
    """Return the path that prepares images for `views` (see `trust.views`); mirror images are made on the device."""
    if views != "ten_crop":
        return evaluation_path(preprocessing, preprocessing.image_size)

    def crops(image: Any, draw_id: int, view: int) -> np.ndarray:
        return inputs.network_crops(image, preprocessing)

    def prepare(source: Source, index: int) -> Any:
        return source[index]

    return Path(f"crops {preprocessing}", prepare, crops, preprocessing.image_size, crops=inputs.CROPS)


def source_stream(
    source: Source, indices: Sequence[int] | np.ndarray, path: Path, data: DataConfig, *, batch_size: int
) -> ImageStream:
    """Return a stream of images of a source.

    Args:
      source: the source.
      indices: positions in it.
      path: the transform; if it skips unreadable images, the stream says which they are.
      data: `config.data`: the number of threads, or of worker processes.
      batch_size: images per batch.
    """
    ahead = max(2 * batch_size, _AHEAD // int(np.prod(path.shape)))
    if data.workers:
        # Each thread waits for one worker, and copies its images, so there are as many slots as threads.
        pool = Workers(data.workers, source, path, data.workers, min(_CHUNK, batch_size))

        def prepare(some: list[int]) -> Prepared:
            zeros = np.zeros(len(some), np.int32)
            slot, images, unreadable = pool.make(np.asarray(some, np.int64), zeros.astype(np.uint32), zeros)
            images = images.copy()
            pool.release(slot)
            return Prepared(images, unreadable)

        return ImageStream(
            _ints(indices), prepare, batch_size=batch_size, threads=data.workers, ahead=ahead, close=pool.close
        )

    def prepare_here(some: list[int]) -> Prepared:
        images, zeros = np.empty((len(some), *path.shape), np.uint8), np.zeros(len(some), np.int32)
        return Prepared(images, make(images, source, path, np.asarray(some, np.int64), zeros, zeros))

    return ImageStream(_ints(indices), prepare_here, batch_size=batch_size, threads=data.threads, ahead=ahead)


def _ints(indices: Sequence[int] | np.ndarray) -> Iterator[int]:
    return (int(index) for index in indices)


def input_stream(
    images: Iterable[inputs.Input], preprocessing: Preprocessing, *, views: str, batch_size: int, threads: int
) -> ImageStream:
    """Return a stream of images that a user passes: arrays, Pillow images or paths, also from an iterator.

    An image that cannot be read is an error when its batch is read.

    Raises:
      UserError: `images` is one image, not several, or `batch_size` is below 1.
    """
    see = inputs.network_crops if views == "ten_crop" else inputs.network_input

    def prepare(some: list[inputs.Input]) -> Prepared:
        return Prepared(np.stack([see(image, preprocessing) for image in some]), {})

    items = inputs.checked(images, batch_size)
    return ImageStream(items, prepare, batch_size=batch_size, threads=threads, ahead=2 * batch_size)
