"""Batches for training and evaluation, from any source, exact at any position.

The position in the data is one integer, the number of global batches seen (see `order`). Neither Grain's iterator state
nor its random numbers are used: the first belongs to one layout of processes and workers, the second differs between
shards.
"""

import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import numpy as np
from PIL import Image

from flax_augtl.data import draws, order
from flax_augtl.data.cache import view_of
from flax_augtl.data.crops import Path, evaluation_path, training_path
from flax_augtl.data.errors import DataError
from flax_augtl.data.examples import ArraySource, Examples

Batch = dict[str, np.ndarray]
# Examples that one thread or worker makes at a time: enough to outweigh Grain's cost for an element, few enough that
# all have work in the first batch.
_CHUNK = 16


def train_batches(
    examples: Examples,
    preprocessing,
    data: Mapping[str, Any],
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    position: int = 0,
    steps: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """The training stream from one position on.

    Item j of global batch p is item p·batch_size + j of the stream; a process gets its items process_index,
    process_index + process_count, …

    Args:
        examples: what to train on.
        preprocessing: the weights' own evaluation transform, of size `image_size`.
        data: config.data.
        batch_size: of all processes together; must divide by `process_count`.
        image_size: side of the pictures, pixels.
        seed: of the order.
        position: global batches already seen.
        steps: global batches in all; the iterator yields `steps − position`.
        process_index, process_count: which share to read.

    Yields:
        {"image": uint8 [b, S, S, 3], "label": int32 [b], "id": uint32 [b], "view": int32 [b]},
        b = batch_size / process_count.
    """
    b = _local(batch_size, process_count)
    labels, draw_ids, n, views = examples.labels, examples.draw_ids, len(examples), int(data["views"])
    start = position * batch_size + process_index

    def rows(first: int, last: int) -> tuple[np.ndarray, Batch]:
        which, view = order.stream(start + first * process_count, start + last * process_count, n, seed,
                                   stride=process_count, views=views)  # fmt: skip
        return which, {"label": labels[which], "id": draw_ids[which], "view": view}

    return _batches(examples, training_path(data, preprocessing, image_size), rows, max(steps - position, 0), b, data,
                    _passes_through(examples, preprocessing, image_size))  # fmt: skip


def eval_batches(
    examples: Examples,
    preprocessing,
    data: Mapping[str, Any],
    *,
    batch_size: int,
    image_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every example once, in order, as for evaluation; the last batch is filled up with blanks.

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

    return _batches(examples, evaluation_path(preprocessing, image_size), rows, -(-n // batch_size), b, data,
                    _passes_through(examples, preprocessing, image_size))  # fmt: skip


def _batches(
    examples: Examples,
    path: Path,
    rows: Callable[[int, int], tuple[np.ndarray, Batch]],
    count: int,
    b: int,
    data: Mapping[str, Any],
    ready: bool,
) -> Iterator[Batch]:
    """`count` batches of b rows; row numbers below 0 are blanks. `ready`: the source has the pixels as they are."""
    source, indices = examples.source, examples.indices
    if ready and path.finish is None:

        def whole(number: int) -> Batch:
            which, batch = rows(number * b, (number + 1) * b)
            images = source.images[indices[which]]
            images[which < 0] = 0
            return {"image": images, **batch}

        return iter(grain.MapDataset.range(count).map(whole).to_iter_dataset(grain.ReadOptions(0, 0)))

    chunks = -(-b // _CHUNK)  # In a batch; the last may be smaller.

    def chunk(number: int) -> Batch:
        batch_number, part = divmod(number, chunks)
        first = batch_number * b + part * _CHUNK
        which, batch = rows(first, min(first + _CHUNK, (batch_number + 1) * b))
        images = np.zeros((len(which), path.size, path.size, 3), np.uint8)
        for row, i in enumerate(which):
            if i >= 0:
                images[row] = view_of(source, path, int(indices[i]), int(batch["id"][row]), int(batch["view"][row]))
        return {"image": images, **batch}

    workers = int(data.get("workers") or 0)
    threads = 0 if workers else int(data["threads"])
    reading = grain.ReadOptions(threads, max(threads, 2 * chunks) if threads else 0)
    dataset = grain.MapDataset.range(count * chunks).map(chunk).to_iter_dataset(reading)
    if workers:
        _accept_unparsed_flags()
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=max(2, chunks))
        dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
        return _naming_lost_workers(iter(dataset.batch(chunks, batch_fn=_joined)))
    return iter(dataset.batch(chunks, batch_fn=_joined))


def _start_worker(index: int, count: int) -> None:
    """Leave Ctrl-C, which a terminal sends to the workers too, to the main process: it still needs them to end well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _naming_lost_workers(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches; a worker process that is gone is an error with a sentence."""
    try:
        yield from batches
    except RuntimeError as error:
        # Grain's own words, for want of a class of its own.
        if "terminated unexpectedly" not in str(error):
            raise
        raise DataError("A worker process that reads pictures is gone: it was killed, or out of memory. The same command "
                        "goes on from the last checkpoint; fewer config.data.workers take less memory.") from error


def _joined(chunks: list[Batch]) -> Batch:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _local(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise ValueError(f"config.batch_size={batch_size} does not divide by the {process_count} processes.")
    return batch_size // process_count


def _passes_through(examples: Examples, preprocessing, image_size: int) -> bool:
    """Whether the evaluation transform leaves the pictures of this source as they are."""
    if not isinstance(examples.source, ArraySource) or examples.source.images.shape[1:3] != (image_size, image_size):
        return False
    # Random pixels are what a resize would not leave alone; one of the pictures might be all black.
    image = draws.raw(image_size * image_size * 3, 0).astype(np.uint8).reshape(image_size, image_size, 3)
    return np.array_equal(np.asarray(preprocessing.resize_and_crop(Image.fromarray(image))), image)


def _accept_unparsed_flags() -> None:
    """Grain reads absl flags when it starts workers, and a notebook has parsed none."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
