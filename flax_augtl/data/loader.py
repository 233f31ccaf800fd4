"""Batches for training and evaluation, from any source, exact at any position.

The position in the data is one integer, the number of global batches seen (see `order`). Neither Grain's iterator state
nor its random numbers are used: the first belongs to one layout of processes and workers, the second differs between
shards.
"""

from collections.abc import Iterator

import grain
import numpy as np
from PIL import Image

from flax_augtl.data import draws, order
from flax_augtl.data.crops import training_crop
from flax_augtl.data.examples import ArraySource, Examples

Batch = dict[str, np.ndarray]


def train_batches(
    examples: Examples,
    preprocessing,
    data,
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
        preprocessing: the weights' own evaluation transform.
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
    transform = training_crop(
        data["crop"],
        image_size,
        view_seed=data["view_seed"],
        scale=tuple(data["crop_scale"]),
        preprocessing=preprocessing,
    )
    draw_ids, labels, n = examples.draw_ids, examples.labels, len(examples)
    start = position * batch_size + process_index
    count = max(steps - position, 0) * b
    unchanged = data["crop"] == "none" and _passes_through(examples, preprocessing, image_size)

    def rows(first: int, last: int) -> Batch:
        which, views = order.stream(
            start + first * process_count,
            start + last * process_count,
            n,
            seed,
            stride=process_count,
            views=data["views"],
        )
        return {"which": which, "label": labels[which], "id": draw_ids[which], "view": views}

    if unchanged:

        def batch(number: int) -> Batch:
            found = rows(number * b, (number + 1) * b)
            return {"image": examples.source.images[examples.indices[found.pop("which")]], **found}

        return iter(grain.MapDataset.range(count // b).map(batch).to_iter_dataset(_reading(0, 0)))

    def example(number: int) -> Batch:
        found = {name: value[0] for name, value in rows(number, number + 1).items()}
        which = found.pop("which")
        image = _rgb(examples.source[int(examples.indices[which])])
        return {"image": transform(image, found["id"], found["view"]), **found}

    return iter(_batched(grain.MapDataset.range(count).map(example), b, data))


def eval_batches(
    examples: Examples,
    preprocessing,
    data,
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
    n = len(examples)
    draw_ids = examples.draw_ids
    count = -(-n // batch_size) * b
    unchanged = _passes_through(examples, preprocessing, image_size)

    def example(number: int) -> Batch:
        i = number * process_count + process_index
        blank = i >= n
        if blank:
            image = np.zeros((image_size, image_size, 3), np.uint8)
        elif unchanged:
            image = examples.source[int(examples.indices[i])]
        else:
            image = np.asarray(preprocessing.resize_and_crop(_rgb(examples.source[int(examples.indices[i])])))
        return {
            "image": image,
            "label": np.int32(0 if blank else examples.labels[i]),
            "id": np.uint32(0 if blank else draw_ids[i]),
            "view": np.int32(0),
            "mask": np.float32(not blank),
        }

    if unchanged:

        def batch(number: int) -> Batch:
            i = np.arange(number * b, (number + 1) * b) * process_count + process_index
            mask = i < n
            i = np.minimum(i, n - 1)
            image = np.where(mask[:, None, None, None], examples.source.images[examples.indices[i]], np.uint8(0))
            return {
                "image": image,
                "label": np.where(mask, examples.labels[i], 0).astype(np.int32),
                "id": np.where(mask, draw_ids[i], 0).astype(np.uint32),
                "view": np.zeros(b, np.int32),
                "mask": mask.astype(np.float32),
            }

        return iter(grain.MapDataset.range(count // b).map(batch).to_iter_dataset(_reading(0, 0)))
    return iter(_batched(grain.MapDataset.range(count).map(example), b, data))


def _batched(dataset: grain.MapDataset, b: int, data) -> grain.IterDataset:
    threads = data["threads"] or 0
    dataset = dataset.to_iter_dataset(_reading(threads, 2 * b))
    return dataset.batch(b)


def _reading(threads: int, ahead: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(ahead, threads) if threads else 0)


def _local(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:
        raise ValueError(f"config.batch_size={batch_size} does not divide by the {process_count} processes.")
    return batch_size // process_count


def _passes_through(examples: Examples, preprocessing, image_size: int) -> bool:
    """Whether the evaluation transform leaves pictures of this size as they are."""
    if not isinstance(examples.source, ArraySource) or examples.source.images.shape[1:3] != (image_size, image_size):
        return False
    # Random pixels are what a resize would not leave alone; one of the pictures might be all black.
    image = draws.raw(image_size * image_size * 3, 0).astype(np.uint8).reshape(image_size, image_size, 3)
    return np.array_equal(np.asarray(preprocessing.resize_and_crop(Image.fromarray(image))), image)


def _rgb(image: Image.Image | np.ndarray) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image)
