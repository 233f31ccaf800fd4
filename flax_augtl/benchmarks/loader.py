"""Pictures a second: this package's loader beside torchvision's, same pictures, transforms and number of workers."""

import contextlib
import dataclasses
import importlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

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

Images = Iterator[np.ndarray]


class Measured(NamedTuple):
    """What one way of loading gave in one round.

    Attributes:
        speed: pictures a second, once it is under way.
        per_core: pictures a second of processor time, of all processes: what another load on the machine hardly
          changes.
        cores: how many were busy.
        first: seconds to the first batch.
        memory: growth of the memory of all processes at its largest, MB.
    """

    speed: float
    per_core: float
    cores: float
    first: float
    memory: float


def benchmark(root: str, image_size: int, batch_size: int, workers: int | None, seconds: float) -> str:
    """Measure, and say what was measured in a table in Markdown.

    Every way yields shuffled uint8 batches of random resized crops, mirrored at random (here the device does that).
    The ways without a cache take turns, so that another load on the machine meets all of them, and the medians count. A
    cache is filled before it is measured.

    Args:
        root: a folder of pictures with a sub-folder a class.
        image_size, batch_size: of the batches.
        workers: number of threads or worker processes here, and of worker processes there; None for the number of
          cores.
        seconds: how long to measure each way in each round, at least.

    Raises:
        DataError: whatever `load_dataset` finds; or the machine does not run Linux.
    """
    workers = workers or os.cpu_count() or 1
    preprocessing = Preprocessing(image_size=image_size)
    dataset = load_dataset({"name": "folder", "root": root, "validation": 0, "test": 0.01}, seed=0)
    n, batch = len(dataset.train), min(batch_size, len(dataset.train))
    base = DataConfig(crop_scale=_SCALE, threads=workers)

    def ours(kept: Dataset, data: DataConfig, start: int = 0) -> Images:
        batches = train_batches(kept.train, preprocessing, data, batch_size=batch, image_size=image_size, seed=0,
                                position=start, steps=10**9)  # fmt: skip
        return (found["image"] for found in batches)

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
            dataset, preprocessing, kept, ours, image_size, -(-n // batch), seconds
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
    ours: Callable[..., Images],
    image_size: int,
    steps: int,
    seconds: float,
) -> list[Measured]:
    before = memory()
    kept = with_cache(dataset, preprocessing, data, image_size=image_size)
    # An epoch for each view, and one batch, since an epoch may end within one.
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
        for _ in range(3):  # What was made ahead while nobody measured.
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
    """Memory of all processes after each epoch, MB."""
    found = []
    with contextlib.closing(start()) as batches:
        seen = 0
        for epoch in range(1, _EPOCHS + 1):
            while seen < epoch * n:
                seen += len(next(batches))
            found.append(memory())
    return found


def _torchvision(dataset: Dataset, image_size: int, batch_size: int, workers: int) -> Callable[[], Images] | str:
    """What starts their loader, or why there is none."""
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
    source, examples = dataset.train.source, dataset.train
    samples = [(source.path(int(i)), int(label)) for i, label in zip(examples.indices, examples.labels, strict=True)]

    class Pictures(torch.utils.data.Dataset):
        """ImageFolder's reading and transforming, on the very pictures that are loaded here."""

        def __len__(self):
            return len(samples)

        def __getitem__(self, i):
            path, label = samples[i]
            return transform(folder.default_loader(path)), label

    def start() -> Images:
        # Made in here, so that its workers end with this generator.
        loader = torch.utils.data.DataLoader(
            Pictures(), batch_size, shuffle=True, num_workers=workers, persistent_workers=True
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
