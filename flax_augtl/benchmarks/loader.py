"""Compare the speed of this package's loader with torchvision's: same images, transforms and number of workers."""

import contextlib
import dataclasses
import importlib
import os
import statistics
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np

from flax_augtl.benchmarks.proc_usage import memory, processor_seconds
from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.data.load import load_dataset
from flax_augtl.data.loading.cache import with_cache
from flax_augtl.data.loading.loader import train_batches
from flax_augtl.data.types import Dataset

_SCALE = (0.25, 1.0)
_ROUNDS = 3
_EPOCHS = 4

Images = Generator[np.ndarray, None, None]


class Measured(NamedTuple):
    """The result of one way of loading in one round.

    Attributes:
      speed: images per second, without the start.
      per_core: images per second of processor time of all processes; another load on the machine hardly changes it.
      cores: number of busy cores.
      first: seconds to the first batch.
      memory: largest growth of the memory of all processes, MB.
    """

    speed: float
    per_core: float
    cores: float
    first: float
    memory: float


def benchmark(root: str, image_size: int, batch_size: int, workers: int | None, seconds: float) -> str:
    """Measure every way of loading, and return a table in Markdown.

    Every way yields shuffled uint8 batches of random resized crops, flipped at random (here the device does that). The
    ways without a cache take turns, so that another load on the machine affects all of them, and medians are reported.
    A cache is filled before it is measured.

    Args:
      root: a folder of images with a subfolder for each class.
      image_size: side of the images.
      batch_size: of the batches.
      workers: number of threads or worker processes of this package, and of worker processes of torchvision; None for
        the number of cores.
      seconds: least time for each way in each round.

    Raises:
      DataError: the data are invalid, or the machine does not run Linux.
    """
    workers = workers or os.cpu_count() or 1
    preprocessing = Preprocessing(image_size=image_size)
    dataset = load_dataset({"name": "folder", "root": root, "validation": 0, "test": 0.01}, seed=0)
    n, batch = len(dataset.train), min(batch_size, len(dataset.train))
    base = DataConfig(crop_scale=_SCALE, threads=workers)

    def ours(kept: Dataset, data: DataConfig, start: int = 0) -> Images:
        batches = train_batches(kept.train, preprocessing, data, batch_size=batch, image_size=image_size, seed=0,
                                position=start, steps=10**9)  # fmt: skip
        for found in batches:
            yield found["image"]

    alone = {
        f"{workers} threads": lambda: ours(dataset, base),
        f"{workers} worker processes": lambda: ours(dataset, dataclasses.replace(base, workers=workers)),
    }
    theirs = _torchvision(dataset, image_size, batch, workers)
    reference = f"torchvision's ImageFolder and DataLoader, {workers} worker processes"
    turns = {**alone, **({reference: theirs} if callable(theirs) else {})}
    rows: dict[str, list[Measured]] = {name: [] for name in turns}
    for _ in range(_ROUNDS):
        for name, start in turns.items():
            rows[name].append(_measure(start, seconds))
    grown = {name: _memory_over_epochs(start, n) for name, start in alone.items()}
    for name, changes in (
        ("decoded images in memory", {"cache": "memory"}),
        ("two views of each image in memory (`config.data.views=2`)", {"cache": "memory", "views": 2}),
        ("decoded images in a scratch file", {"cache": "file"}),
    ):
        kept = dataclasses.replace(base, **changes, cache_gb=16.0)
        rows[f"{name}, {workers} threads"] = _with_cache(
            dataset,
            preprocessing,
            kept,
            ours=ours,
            image_size=image_size,
            steps=-(-n // batch),
            seconds=seconds,
        )
    lines = [
        f"{n} images of {root}, {image_size} × {image_size}, batches of {batch}; medians of {_ROUNDS} rounds of "
        f"{seconds:g} s on {os.cpu_count()} cores.",
        "",
        *_table({name: _median(found) for name, found in rows.items()}, rows.get(reference)),
        "",
        *(f"Memory after each of {_EPOCHS} epochs, {name}: {', '.join(f'{m:.0f}' for m in found)} MB."
          for name, found in grown.items()),
    ]  # fmt: skip
    return "\n".join([*lines, *([theirs] if isinstance(theirs, str) else [])])


def _with_cache(
    dataset: Dataset,
    preprocessing: Preprocessing,
    data: DataConfig,
    *,
    ours: Callable[..., Images],
    image_size: int,
    steps: int,
    seconds: float,
) -> list[Measured]:
    """Fill a cache, and measure what follows.

    Args:
      dataset: to load.
      preprocessing: of the images.
      data: with the cache.
      ours: starts the loader.
      image_size: side of the images.
      steps: batches of an epoch.
      seconds: least time for each round.
    """
    before = memory()
    kept = with_cache(dataset, preprocessing, data, image_size=image_size)
    # An epoch for each view, and one more batch, since an epoch may end within a batch.
    fill = steps * max(1, data.views) + 1
    with contextlib.closing(ours(kept, data)) as batches:
        for _ in range(fill):
            next(batches)
    taken = memory() - before
    found = [_measure(lambda: ours(kept, data, fill), seconds) for _ in range(_ROUNDS)]
    return [each._replace(memory=each.memory + taken) for each in found]


def _measure(start: Callable[[], Images], seconds: float) -> Measured:
    before, begin = memory(), time.perf_counter()
    largest = before
    with contextlib.closing(start()) as batches:
        next(batches)
        first = time.perf_counter() - begin
        for _ in range(3):  # These batches were made before the measurement.
            next(batches)
        processor, begin, seen, looked = processor_seconds(), time.perf_counter(), 0, 0.0
        while (now := time.perf_counter() - begin) < seconds or not seen:
            seen += len(next(batches))
            if now >= looked:
                largest, looked = max(largest, memory()), now + 1
        passed, used = time.perf_counter() - begin, processor_seconds() - processor
        largest = max(largest, memory())
    return Measured(seen / passed, seen / max(used, 1e-9), used / passed, first, largest - before)


def _memory_over_epochs(start: Callable[[], Images], n: int) -> list[float]:
    """Return the memory of all processes after each epoch, MB."""
    found = []
    with contextlib.closing(start()) as batches:
        seen = 0
        for epoch in range(1, _EPOCHS + 1):
            while seen < epoch * n:
                seen += len(next(batches))
            found.append(memory())
    return found


def _torchvision(dataset: Dataset, image_size: int, batch_size: int, workers: int) -> Callable[[], Images] | str:
    """Return a function that starts torchvision's loader, or a sentence why there is none."""
    try:
        torch = importlib.import_module("torch")
        transforms = importlib.import_module("torchvision.transforms")
        folder = importlib.import_module("torchvision.datasets.folder")
    except ImportError as error:
        return f"torchvision was not measured: {error}. It is in the extra: pip install 'flax_augtl[parity]'."
    transform = transforms.Compose([
        transforms.RandomResizedCrop(image_size, scale=_SCALE),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    ])  # fmt: skip
    examples = dataset.train
    source: Any = examples.source  # A folder of images, which has paths.
    samples = [(source.path(int(i)), int(label)) for i, label in zip(examples.indices, examples.labels, strict=True)]

    class ReadImages(torch.utils.data.Dataset):
        """Reads and transforms as ImageFolder does, the same images as this package."""

        def __len__(self):
            return len(samples)

        def __getitem__(self, i):
            path, label = samples[i]
            return transform(folder.default_loader(path)), label

    def start() -> Images:
        # Created here, so that its workers end with this generator.
        loader = torch.utils.data.DataLoader(
            ReadImages(), batch_size, shuffle=True, num_workers=workers, persistent_workers=True
        )
        while True:
            for images, _ in loader:
                yield images

    return start


def _median(found: list[Measured]) -> Measured:
    return Measured(*(statistics.median(values) for values in zip(*found, strict=True)))


def _table(rows: dict[str, Measured], reference: list[Measured] | None) -> list[str]:
    lines = ["| | images/s | | per core | | cores | first batch | memory |", "|---|---|---|---|---|---|---|---|"]
    base = _median(reference) if reference else None
    for name, found in rows.items():
        times = [f"{a / b:.2f}×" for a, b in zip(found[:2], base[:2], strict=True)] if base else ("", "")
        lines.append(
            f"| {name} | {found.speed:.0f} | {times[0]} | {found.per_core:.0f} | {times[1]} | {found.cores:.2f} | "
            f"{found.first:.2f} s | {found.memory:.0f} MB |"
        )
    return lines
