"""Part f: images from files: the loader alone, and whether the device waits for it."""

import contextlib
import os
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from PIL import Image

from flax_augtl.benchmarks.accelerator import results, train_step
from flax_augtl.benchmarks.accelerator.runner import Context
from flax_augtl.benchmarks.accelerator.workload import RATE, Case, Workload, build, fresh_step
from flax_augtl.benchmarks.loader import benchmark
from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import load_dataset, train_batches
from flax_augtl.training.pmapped import split_over_devices

CLASSES = 10
NEEDED = 15
SIDES = (500, 375)  # Of the stored files, as in ImageNet.


def write_images(root: Path, count: int, sides: tuple[int, int], different: int = 400) -> None:
    """Write JPEG files in folders of classes: `different` images of noise that is smooth, each under several names."""
    rng = np.random.default_rng(0)
    originals: list[Path] = []
    for index in range(count):
        folder = root / f"class{index % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{index:06}.jpg"
        if index >= different:
            os.link(originals[index % different], path)
            continue
        small = rng.integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(small).resize(sides, Image.Resampling.BICUBIC).save(path, quality=90)
        originals.append(path)


def run(context: Context) -> None:
    """Measure."""
    sizes = context.sizes
    sides = SIDES if sizes.image_size > 100 else (2 * sizes.image_size, sizes.image_size)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        write_images(root, sizes.files, sides)
        if context.enough("training from files", NEEDED):
            with context.results.case("training from files"):
                _end_to_end(context, root)
        for workers in dict.fromkeys((os.cpu_count() or 1, 8 if sizes.image_size > 100 else 1)):
            name = f"loader, {workers} threads or workers"
            if context.enough(name, 30 * sizes.loader_seconds):
                with context.results.case(name):
                    text = benchmark(
                        str(root),
                        sizes.image_size,
                        min(sizes.batches[0], sizes.files // 2),
                        workers,
                        sizes.loader_seconds,
                    )
                    context.results.row(name, files=sizes.files, pixels=f"{sides[0]} × {sides[1]}", text=text)


def _end_to_end(context: Context, root: Path) -> None:
    """Train ResNet-50 from JPEG files, with threads and with worker processes."""
    sizes = context.sizes
    case = Case("resnet50", "none", sizes.dtypes[0], sizes.batches[0])
    workload = build(case, sizes)
    # The crop is made on the host now.
    settings = workload.settings.__class__(flip="horizontal")
    step = fresh_step(workload.network, workload.plan, workload.preprocessing, settings)
    dataset = load_dataset(
        {"name": "folder", "root": str(root), "validation": 0, "test": 0.02, "near_copies": "ignore", "scan_dir": ""},
        seed=0,
    )
    cores = os.cpu_count() or 1
    alone = _device_alone(workload, step, sizes.steps)
    for name, workers in ((f"{cores} threads", 0), (f"{cores} worker processes", cores)):
        data = DataConfig(threads=cores, workers=workers)
        batches = train_batches(
            dataset.train,
            workload.preprocessing,
            data,
            batch_size=case.batch,
            image_size=sizes.image_size,
            seed=0,
            steps=10**9,
        )
        with contextlib.closing(cast(Generator, batches)):
            seconds = _fed(workload, step, batches, sizes.steps)
        stored = train_step.baseline(results.read(context.results.folder), case)
        context.results.row(
            f"training from files, {name}",
            images_per_second=case.batch / seconds,
            device_alone=case.batch / alone,
            images_on_the_device=stored,
            device_waits=max(0.0, 1 - alone / seconds),
        )


def _device_alone(workload: Workload, step, steps: int) -> float:
    """Return the seconds of a step whose batch is on the host already."""
    size, side = workload.batch_size, workload.preprocessing.image_size
    batch = {
        "image": np.zeros((size, side, side, 3), np.uint8),
        "label": np.zeros(size, np.int32),
        "id": np.zeros(size, np.uint32),
        "view": np.zeros(size, np.int32),
    }
    return _fed(workload, step, iter([batch] * (steps + 2)), steps)


def _fed(workload: Workload, step, batches: Iterator[dict[str, Any]], steps: int) -> float:
    """Return the seconds of a step, once it is compiled and the loader is under way."""
    state, devices = workload.state(), jax.local_device_count()
    scalars: Any = None
    for _ in range(2):
        state, scalars = step(state, split_over_devices(next(batches), devices), RATE, None)
        jax.block_until_ready(scalars)
    begun, before = time.perf_counter(), None
    for _ in range(steps):
        state, scalars = step(state, split_over_devices(next(batches), devices), RATE, None)
        _ = before is None or float(before["loss"])
        before = scalars
    jax.block_until_ready(scalars)
    return (time.perf_counter() - begun) / steps
