"""Make batches for training and evaluation from any source, exact at any position.

The position in the data is one integer, the number of global batches seen (see `sampler`). Grain's iterator state is
not used, because it belongs to one layout of processes and workers. Its random numbers are not used, because they
differ between shards.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import keyed_random
from flax_augtl.data.images.transforms import Path, evaluation_path, training_path
from flax_augtl.data.loading import sampler
from flax_augtl.data.loading.maker import make
from flax_augtl.data.loading.workers import Workers
from flax_augtl.data.types import ArraySource, Examples, Source
from flax_augtl.errors import UserError

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]
# Examples that a thread or worker makes at a time: enough to outweigh Grain's overhead for an element, and few enough
# that all threads have work in the first batch.
_CHUNK = 16


def train_batches(
    examples: Examples,
    preprocessing,
    data: DataConfig,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    position: int = 0,
    steps: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Yield the batches of the training stream from a position on.

    Item j of global batch p is item p·batch_size + j of the stream. A process gets the items process_index,
    process_index + process_count, … of each batch.

    Args:
      examples: the training examples.
      preprocessing: the evaluation transform of the weights, of size `image_size`.
      data: config.data.
      batch_size: size of the global batch; a multiple of `process_count`.
      image_size: side of the images, in pixels.
      seed: seed of the order.
      position: number of global batches already seen.
      steps: total number of global batches; `steps − position` are yielded.
      process_index: number of this process.
      process_count: number of processes.

    Yields:
      {"image": uint8 [b, S, S, 3], "label": int32 [b], "id": uint32 [b], "view": int32 [b]}, b = batch_size /
      process_count.
    """
    b = _local(batch_size, process_count)
    labels, draw_ids, n, views = examples.labels, examples.draw_ids, len(examples), data.views
    start = position * batch_size + process_index

    def rows(first: int, last: int) -> tuple[np.ndarray, Batch]:
        which, view = sampler.stream(start + first * process_count, start + last * process_count, n, seed,
                                   stride=process_count, views=views)  # fmt: skip
        return which, {"label": labels[which], "id": draw_ids[which], "view": view}

    path, ready = training_path(data, preprocessing, image_size), _passes_through(examples, preprocessing, image_size)
    return _batches(examples, path, rows, count=max(steps - position, 0), b=b, data=data, ready=ready)


def eval_batches(
    examples: Examples,
    preprocessing,
    data: DataConfig,
    *,
    batch_size: int,
    image_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Yield every example once, in order, with the evaluation transform; blanks fill up the last batch.

    All processes get the same number of batches.

    Yields:
      {"image": uint8 [b, S, S, 3], "label": int32 [b], "id": uint32 [b], "view": int32 [b] of zeros, "mask": float32
      [b], 1 for an example and 0 for a blank}, b = batch_size / process_count.
    """
    b = _local(batch_size, process_count)
    labels, draw_ids, n = examples.labels, examples.draw_ids, len(examples)

    def rows(first: int, last: int) -> tuple[np.ndarray, Batch]:
        which = np.arange(first, last) * process_count + process_index
        blank = which >= n
        which = np.where(blank, -1, which)
        return which, {
            "label": np.where(blank, 0, labels[which]).astype(np.int32),
            "id": np.where(blank, 0, draw_ids[which]).astype(np.uint32),
            "view": np.zeros(last - first, np.int32),
            "mask": (~blank).astype(np.float32),
        }

    path, ready = evaluation_path(preprocessing, image_size), _passes_through(examples, preprocessing, image_size)
    return _batches(examples, path, rows, count=-(-n // batch_size), b=b, data=data, ready=ready)


def _batches(
    examples: Examples,
    path: Path,
    rows: Callable[[int, int], tuple[np.ndarray, Batch]],
    *,
    count: int,
    b: int,
    data: DataConfig,
    ready: bool,
) -> Iterator[Batch]:
    """Yield `count` batches of b rows; rows with numbers below 0 are blank.

    Args:
      examples: the examples.
      path: the transform.
      rows: (first row, last row) → (positions of the examples, the other arrays of the batch).
      count: number of batches.
      b: size of a batch of this process.
      data: config.data.
      ready: whether the source already has the transformed images.
    """
    source, indices = examples.source, examples.indices
    if ready and path.finish is None:
        assert isinstance(source, ArraySource), "Only arrays are ready; see `_passes_through`."
        pixels = source.images
        import grain  # Here, because predictions do not need it and should not wait for it.

        def whole(number: int) -> Batch:
            which, batch = rows(number * b, (number + 1) * b)
            images = pixels[indices[which]]
            images[which < 0] = 0
            return {"image": images, **batch}

        return iter(grain.MapDataset.range(count).map(whole).to_iter_dataset(grain.ReadOptions(0, 0)))

    chunks = -(-b // _CHUNK)  # Of a batch; the last may be smaller.

    def part(number: int) -> tuple[np.ndarray, Batch]:
        batch_number, place = divmod(number, chunks)
        first = batch_number * b + place * _CHUNK
        which, batch = rows(first, min(first + _CHUNK, (batch_number + 1) * b))
        return np.where(which < 0, -1, indices[which]), batch

    workers = data.workers
    if workers:
        return _made_by_workers(workers, source, path, part, count=count, chunks=chunks, rows=min(b, _CHUNK))

    def chunk(number: int) -> Batch:
        which, batch = part(number)
        images = np.empty((len(which), path.size, path.size, 3), np.uint8)
        make(images, source, path, which, batch["id"], batch["view"])
        return {"image": images, **batch}

    threads = data.threads
    return iter(_chunks(count * chunks, chunk, threads, 2 * chunks).batch(chunks, batch_fn=_joined))


def _made_by_workers(
    workers: int,
    source: Source,
    path: Path,
    part: Callable[[int], tuple[np.ndarray, Batch]],
    *,
    count: int,
    chunks: int,
    rows: int,
) -> Iterator[Batch]:
    """Yield batches whose images worker processes make; a thread of Grain waits for each worker, to keep the order."""
    ahead = max(2 * workers, 2 * chunks)
    # Slots for the chunks made ahead, and for those of the batch that is being joined.
    with contextlib.closing(Workers(workers, source, path, ahead + chunks, rows)) as pool:

        def chunk(number: int) -> tuple[int, Batch]:
            which, batch = part(number)
            slot, images, _ = pool.make(which, batch["id"], batch["view"])
            return slot, {"image": images, **batch}

        def joined(made: Sequence[tuple[int, Batch]]) -> Batch:
            batch = _joined([found for _, found in made])
            for slot, _ in made:
                pool.release(slot)
            return batch

        yield from _chunks(count * chunks, chunk, workers, ahead).batch(chunks, batch_fn=joined)


def _chunks(count: int, chunk: Callable[[int], Any], threads: int, ahead: int) -> "grain.IterDataset":
    import grain  # Here, because predictions do not need it and should not wait for it.

    reading = grain.ReadOptions(threads, max(threads, ahead) if threads else 0)
    return grain.MapDataset.range(count).map(chunk).to_iter_dataset(reading)


def _joined(chunks: Sequence[Batch]) -> Batch:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _local(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise UserError(f"config.batch_size={batch_size} is not divisible by the number of processes, {process_count}.")
    return batch_size // process_count


def _passes_through(examples: Examples, preprocessing, image_size: int) -> bool:
    """Tell whether the evaluation transform does not change the images of this source."""
    if not isinstance(examples.source, ArraySource) or examples.source.images.shape[1:3] != (image_size, image_size):
        return False
    # Resizing changes random pixels in any case; an image of the source could be all black.
    image = keyed_random.raw(image_size * image_size * 3, 0).astype(np.uint8).reshape(image_size, image_size, 3)
    return np.array_equal(np.asarray(preprocessing.resize_and_crop(Image.fromarray(image))), image)
