"""Cache prepared images, in memory or in a scratch file, within a budget."""

import dataclasses
import shutil
import tempfile

import numpy as np
from PIL import Image

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.errors import DataError
from flax_augtl.data.images.transforms import Path, evaluation_path, training_path
from flax_augtl.data.loading.pixel_store import Store, in_file, in_memory
from flax_augtl.data.types import ArraySource, Dataset, Examples, Source


class KeepingSource:
    """A source whose prepared images, or finished views, are cached.

    Attributes:
      source: the source of the images.
      key: key of the path whose images are cached.
      views: number of views to cache of each image; 0 to cache the prepared image.
      store: the cache.
    """

    def __init__(self, source: Source, key: str, views: int, store: Store):
        self.source, self.key, self.views, self.store = source, key, views, store

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Image.Image | np.ndarray:
        return self.source[index]


def view_of(source: Source, path: Path, index: int, draw_id: int, view: int) -> np.ndarray:
    """Return one view of one image, uint8 [size, size, 3], from the cache if it is there."""
    keeper = source if isinstance(source, KeepingSource) and source.key == path.key else None
    plain = source.source if isinstance(source, KeepingSource) else source
    if keeper is not None and keeper.views:
        number = index * keeper.views + view % keeper.views
        kept = keeper.store.get(number)
        if kept is None:
            kept = _finished(path, path.prepare(plain, index), draw_id, view)
            keeper.store.put(number, kept)
        return kept
    if keeper is None:
        return _finished(path, path.prepare(plain, index), draw_id, view)
    kept = keeper.store.get(index)
    if kept is None:
        image = path.prepare(plain, index)
        keeper.store.put(index, np.asarray(image))
        return _finished(path, image, draw_id, view)
    return kept if path.finish is None else path.finish(Image.fromarray(kept), draw_id, view)


def with_cache(dataset: Dataset, preprocessing, data: DataConfig, *, image_size: int) -> Dataset:
    """Return a dataset with its images cached as config.data.cache says; the notes say what was chosen.

    "auto" caches a split in memory if it fits into the rest of `cache_gb`, else in a scratch file if the disk has twice
    the space, else not at all. For validation and test, the transformed images are cached. For training, the finished
    views are cached if their number is finite and they fit, else the prepared images. The batches are the same with and
    without a cache.

    Args:
      dataset: the result of `load_dataset`.
      preprocessing: the evaluation transform of the weights, of size `image_size`.
      data: config.data.
      image_size: side of the network's input, in pixels.

    Raises:
      DataError: a cache is combined with worker processes, each of which would fill its own cache.
    """
    where, budget = data.cache, int(data.cache_gb * 1e9)
    if where == "none":
        return dataset
    if data.workers:
        if where == "auto":
            return dataset
        raise DataError(
            f'config.data.cache="{where}" goes with threads only, and config.data.workers is {data.workers}. '
            "Set workers to 0, or the cache to none."
        )
    training = training_path(data, preprocessing, image_size)
    evaluation = evaluation_path(preprocessing, image_size)
    changed, notes = {}, []
    for split, examples, path in (
        ("train", dataset.train, training), ("val", dataset.val, evaluation), ("test", dataset.test, evaluation),
    ):  # fmt: skip
        if examples is None or isinstance(examples.source, ArraySource):
            continue
        views = data.views if split == "train" and path.finish is not None else 0
        changed[split], used, note = _cached(examples, path, views, where, budget, data.cache_dir)
        budget -= used
        notes.append(f"{split}: {note}")
    if not notes:
        return dataset
    return dataclasses.replace(dataset, **changed, notes=(*dataset.notes, f"Cache of pixels: {'; '.join(notes)}."))


def _cached(
    examples: Examples, path: Path, views: int, where: str, budget: int, folder: str | None
) -> tuple[Examples, int, str]:
    """Return (the examples with a cached source, bytes of memory reserved, a phrase about the cache)."""
    prepared = _estimate(examples, path)
    finished = len(examples) * path.size * path.size * 3 * views
    try:
        disk = shutil.disk_usage(folder or tempfile.gettempdir()).free
    except OSError as error:
        raise DataError(
            f"config.data.cache_dir={folder}: {error.strerror or error}. Give a folder that exists."
        ) from error
    if where == "memory" or (where == "auto" and prepared <= budget):
        place, limit = "memory", budget
    elif where == "file" or prepared * 2 <= disk:
        place, limit = "file", disk // 2
    else:
        return examples, 0, f"none, as {prepared / 1e9:.2f} GB fit neither into memory nor on the disk"
    if not views or finished > limit:
        views, finished = 0, prepared
    size = max(1, min(limit, finished))
    store = in_memory(size) if place == "memory" else in_file(size, folder or tempfile.gettempdir())
    source = KeepingSource(examples.source, path.key, views, store)
    what = f"{views} views of each" if views else "each image"
    part = "" if finished <= limit else f", {limit / finished:.0%} of the images"
    note = f"{what} in {'a scratch file' if place == 'file' else 'memory'}, {size / 1e9:.2f} GB{part}"
    return dataclasses.replace(examples, source=source), size if place == "memory" else 0, note


def _estimate(examples: Examples, path: Path) -> int:
    """Return the bytes of all prepared images; if they differ in size, an estimate from a few, plus a tenth."""
    if path.key.startswith("evaluation"):
        return len(examples) * path.size * path.size * 3
    few = examples.indices[:: max(1, len(examples) // 16)][:16]
    pixels = [np.prod(path.prepare(examples.source, int(index)).size) for index in few]
    return int(len(examples) * 3 * np.mean(pixels) * 1.1)


def _finished(path: Path, image: Image.Image, draw_id: int, view: int) -> np.ndarray:
    return np.asarray(image) if path.finish is None else path.finish(image, draw_id, view)
