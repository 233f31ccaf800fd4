"""Pictures a second: this package's loader beside torchvision's, same pictures, transforms and number of workers."""

import gc
import importlib
import os
import resource
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from flax_augtl.data.cache import with_cache
from flax_augtl.data.examples import Dataset
from flax_augtl.data.load import load_dataset
from flax_augtl.data.loader import train_batches
from flax_augtl.pretrained.preprocessing import Preprocessing

_SCALE = (0.25, 1.0)


class Measured(NamedTuple):
    """What one way of loading gave.

    Attributes:
        speed: pictures a second, after the first batch.
        per_core: pictures a second of processor time, all processes together: what another load on the machine does
            not change.
        first: seconds to the first batch.
        memory: growth of the peak memory, MB, of this process and of the largest of its children.
    """

    speed: float
    per_core: float
    first: float
    memory: float


def benchmark(root: str, image_size: int, batch_size: int, workers: int | None, seconds: float) -> str:
    """Measure, and say what was measured in a table.

    Every way yields shuffled uint8 batches of random resized crops, mirrored at random (here the device does that); one
    epoch is passed over first where a cache has to fill.

    Args:
        root: a folder of pictures with a sub-folder a class.
        image_size, batch_size: of the batches.
        workers: threads here, processes there; None for the number of cores.
        seconds: how long to measure each way, at least.
    """
    workers = workers or os.cpu_count() or 1
    preprocessing = Preprocessing(image_size=image_size)
    dataset = load_dataset({"name": "folder", "root": root, "validation": 0, "test": 0.01}, seed=0)
    n, batch = len(dataset.train), min(batch_size, len(dataset.train))
    rows: list[tuple[str, Measured]] = []

    def ours(changes: dict[str, Any], warm: int) -> Measured:
        data = {"crop": "resized", "crop_scale": _SCALE, "view_seed": 0, "views": 0, "threads": workers, **changes}
        kept = with_cache(dataset, preprocessing, data, image_size=image_size)

        def epochs(count: int, start: int = 0) -> Iterable[np.ndarray]:
            steps = -(-n // batch)
            batches = train_batches(kept.train, preprocessing, data, batch_size=batch, image_size=image_size, seed=0,
                                    position=start * steps, steps=(start + count) * steps)  # fmt: skip
            return (found["image"] for found in batches)

        for _ in epochs(warm):
            pass
        return _measure(lambda: epochs(1000, warm), seconds, n)

    rows.append(("here, no cache", ours({}, 0)))
    reference = _torchvision(dataset, image_size, batch, workers, seconds, n)
    if isinstance(reference, Measured):
        rows.append(("torchvision ImageFolder + DataLoader", reference))
    rows.append(("here, decoded pictures in memory", ours({"cache": "memory", "cache_gb": 16}, 1)))
    rows.append(("here, 2 views of each in memory", ours({"cache": "memory", "cache_gb": 16, "views": 2}, 2)))
    rows.append(("here, decoded pictures in a file", ours({"cache": "file"}, 1)))
    title = f"{n} pictures of {root}, {image_size} × {image_size}, batches of {batch}, {workers} workers"
    return "\n".join([title, *_table(rows), *([reference] if isinstance(reference, str) else [])])


def _measure(batches: Callable[[], Iterable[np.ndarray]], seconds: float, at_least: int) -> Measured:
    before, cpu = _peak(), _processor_seconds()
    start = time.perf_counter()
    seen, first, others = 0, 0.0, 0.0
    for images in batches():
        now = time.perf_counter() - start
        if not seen:
            first = now
        else:
            others += len(images)
        seen += len(images)
        if seen >= at_least and now >= seconds:
            break
    gc.collect()  # Ends worker processes, whose time counts only then.
    # The first batch is told apart: starting up is no speed.
    return Measured(others / max(now - first, 1e-9), seen / (_processor_seconds() - cpu), first, _peak() - before)


def _torchvision(dataset: Dataset, image_size: int, batch_size: int, workers: int, seconds: float, n: int) -> Measured | str:
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

    def batches():
        # Made in here, so that its workers end with this generator.
        loader = torch.utils.data.DataLoader(
            Pictures(), batch_size, shuffle=True, num_workers=workers, persistent_workers=True
        )
        while True:
            for images, _ in loader:
                yield images

    return _measure(batches, seconds, n)


def _table(rows: list[tuple[str, Measured]]) -> list[str]:
    reference = next((measured for name, measured in rows if name.startswith("torchvision")), None)
    lines = [f"{'':38}{'pictures/s':>12}{'times':>7}{'per core':>12}{'times':>7}{'first batch':>13}{'peak memory':>13}"]
    for name, found in rows:
        times = [f"{a / b:.2f}" for a, b in zip(found[:2], reference[:2], strict=True)] if reference else ("", "")
        lines.append(
            f"{name:38}{found.speed:12.0f}{times[0]:>7}{found.per_core:12.0f}{times[1]:>7}{found.first:11.2f} s"
            f"{found.memory:10.0f} MB"
        )
    return lines


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak() -> float:
    """Peak memory of this process and of the largest of its children, MB."""
    kilobytes = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return kilobytes / 1024
