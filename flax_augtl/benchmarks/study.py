"""What the caches of a study are worth, on this machine: `python -m flax_augtl.study benchmark`."""

import dataclasses
import importlib.util
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_augtl.features.activations import PICTURES, Activations, open_activations
from flax_augtl.features.views import training_rows
from flax_augtl.models import create_model
from flax_augtl.models.initializers import random_variables
from flax_augtl.pretrained import Preprocessing
from flax_augtl.pretrained.save import write_safetensors
from flax_augtl.runtime.text import columns, duration
from flax_augtl.study.caches import needed
from flax_augtl.study.context import Material, gather
from flax_augtl.study.grid import Cell
from flax_augtl.study.study import TIMING
from flax_augtl.study.trial import CLASSES, configuration, peak_of_study, pictures, quietly
from flax_augtl.study.trials.trial_batch import Pack
from flax_augtl.training.step import replicate


@dataclasses.dataclass(frozen=True)
class Depth:
    """Seconds of a step at one freeze depth.

    Attributes:
      kept: on kept activations: the layers that train, alone.
      recomputed: on pictures: the frozen layers' forward pass and the layers that train.
      prefix: the frozen layers' forward pass alone.
      torch: of a plain PyTorch loop, for as many examples; None where PyTorch is not installed.
      memory: MB that kept, recomputed and prefix take on the device while they run, besides what they read and leave.
    """

    kept: float
    recomputed: float
    prefix: float
    torch: float | None
    memory: tuple[float, float, float]


def quickest(function: Callable[[], Any], repeats: int) -> float:
    """Return the shortest of some durations in seconds: what else a machine does only adds."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - begun)
    return min(times)


def _megabytes(compiled: Any) -> float:
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def step_cost(material: Material, activations: Activations, cell: Cell, repeats: int) -> tuple[float, float]:
    """Return the seconds, and the MB besides its arguments and results, of one step of a cell that is trained alone."""
    pack = Pack(material, activations, [cell])
    try:
        pack.warm_up()
        states, count = replicate(pack.states), pack.steps_per_call
        times = []
        for _ in range(repeats):
            batches = pack.batches(0, count)
            begun = time.perf_counter()
            states, losses = pack.run(states, batches, 0, count)
            jax.block_until_ready(losses)
            times.append((time.perf_counter() - begun) / count)
        rates = np.zeros((count, 1), np.float32)
        lowered = pack.step_function.lower(states, pack.batches(0, count), rates, pack.feed.pool, np.int32(count))
        return min(times), _megabytes(lowered.compile())
    finally:
        pack.close()


def prefix_cost(material: Material, cell: Cell, batch_size: int, repeats: int) -> tuple[float, float]:
    """Return the seconds and the MB of the frozen layers' forward pass over a batch of pictures."""
    model, depth = material.source.model, material.freezing(cell).depth
    if not depth:
        return 0.0, 0.0
    images = np.zeros((batch_size, *(material.preprocessing.image_size,) * 2, 3), np.uint8)
    variables = jax.device_put(material.source.variables)
    forward = (
        jax.jit(lambda variables, x: model.apply(variables, material.preprocessing.normalise(x), 0, depth))
        .lower(variables, images)
        .compile()
    )
    jax.block_until_ready(forward(variables, images))
    return quickest(lambda: forward(variables, images), repeats), _megabytes(forward)


def trained(material: Material, activations: Activations, cell: Cell) -> tuple[Any, float, float]:
    """Train a cell; return its parameters, its validation accuracy, and the examples a second, evaluation included."""
    pack = Pack(material, activations, [cell])
    try:
        pack.warm_up()
        begun = time.perf_counter()
        while not pack.done:
            pack.advance()
        seconds = time.perf_counter() - begun
        (row,) = pack.results()
        return pack.variables(0)["params"], row["val"]["top1"], row["examples_seen"] / seconds
    finally:
        pack.close()


def benchmark(network: str = "resnet18", image_size: int = 224, batch_size: int = 32, repeats: int = 3) -> None:
    """Measure, and print as it goes.

    Args:
      network: a source network, with random weights: time does not depend on them.
      image_size: side of the pictures.
      batch_size: of the steps.
      repeats: timed calls of each kind; the quickest counts.
    """
    print(
        f"{network} at {image_size} pixels, batches of {batch_size}; {jax.device_count()} × "
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores; jax {jax.__version__}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")  # As main.py keeps one.
        model = create_model(network, num_classes=1000)
        weights = f"{folder}/random.safetensors"
        write_safetensors(
            weights, network, jax.tree.map(np.asarray, random_variables(model)), Preprocessing(image_size=image_size)
        )
        config = configuration(network, weights, image_size, batch_size)
        dataset = pictures(3 * batch_size // CLASSES + 8, image_size)
        material = gather(config, {0: dataset})
        rows = training_rows([dataset], material.preprocessing, material.config.data)

        def opened(names: list[str]) -> Activations:
            found = open_activations(
                rows,
                material.source.model,
                material.source.variables,
                material.preprocessing,
                names,
                kind="memory",
                budget=1e12,
                device_bytes=1e12,
                dtype="float32",
                key="",
                folder=None,
            )
            found.fill()
            return found

        everything, plain = opened(needed(material)), opened([PICTURES])
        depths = _depths(material, everything, plain, network, batch_size, repeats)
        _agreement(material, everything, plain)
        _all(material, everything, plain)
        _grid(config, material, depths, Path(folder), dataset)
        _peak(config, everything.store.bytes / 2e9, Path(folder))


def _cell(material: Material, depth: str) -> Cell:
    head = "kept" if depth not in material.grid.depths["traditional"] else "traditional"
    return Cell("select", head, depth, "pretrained", 0.01, 0)


def _depths(material, everything, plain, network, batch_size, repeats) -> dict[str, Depth]:
    torch = (
        all(map(importlib.util.find_spec, ("torch", "torchvision")))
        and network.startswith("resnet")
        and "imagenet" == (material.source.model.stem)
    )
    found, table = (
        {},
        [
            (
                "frozen up to",
                "step, kept",
                "step, recomputed",
                "prefix",
                "recomputed / (prefix + kept)",
                "PyTorch",
                "PyTorch / kept",
                "MB: kept",
                "recomputed",
                "prefix",
            )
        ],
    )
    for depth in material.grid.axis:
        cell = _cell(material, depth)
        other = None
        if torch and depth != material.source.groups[-1]:
            from flax_augtl.benchmarks.torch_loop import seconds_per_example

            each, _ = seconds_per_example(
                network,
                depth,
                material.source.groups,
                CLASSES,
                material.preprocessing.image_size,
                (16, 32, 64),
                repeats,
            )
            other = each * batch_size
        costs = (
            step_cost(material, everything, cell, repeats),
            step_cost(material, plain, cell, repeats),
            prefix_cost(material, cell, batch_size, repeats),
        )
        seconds, megabytes = zip(*costs, strict=True)
        found[depth] = one = Depth(*seconds, other, megabytes)
        table.append(
            (
                depth,
                f"{one.kept:.4f} s",
                f"{one.recomputed:.3f} s",
                f"{one.prefix:.3f} s",
                f"{one.recomputed / (one.prefix + one.kept):.2f}",
                "–" if other is None else f"{other:.3f} s",
                "–" if other is None else f"{other / one.kept:.1f}×",
                *(f"{each:.0f}" for each in megabytes),
            )
        )
        print(f"  {depth} is timed.", flush=True)
    print(columns(table), flush=True)
    return found


def _agreement(material, everything, plain) -> None:
    for depth in material.grid.axis:
        cell = _cell(material, depth)
        one, top1, _ = trained(material, everything, cell)
        other, top1_other, _ = trained(material, plain, cell)
        one = {**one, "source": one.get("source", {})}
        # On pictures the frozen layers are there too.
        other = {**other, "source": {group: other["source"][group] for group in one["source"]}}
        difference = max(
            jax.tree.leaves(
                jax.tree.map(lambda a, b: float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)), one, other)
            )
        )
        n = len(material.datasets[0].val)
        error = math.sqrt(max(top1 * (1 - top1), 1 / n) / n)
        print(
            f"{depth}: after {material.config.steps} steps kept and recomputed differ by {difference:.1e} of the largest "
            f"parameter; validation {top1:.3f} and {top1_other:.3f} (standard error {error:.3f})",
            flush=True,
        )


def _all(material, everything, plain) -> None:
    cell = _cell(material, material.grid.axis[-2])
    _, _, quick = trained(material, everything, cell)
    _, _, slow = trained(material, plain, cell)
    pack_seconds = everything.fill_seconds
    cells = 120  # Of the preset `paper` at this depth: four heads, five rates, six seeds.
    examples = material.config.steps * material.config.batch_size
    amortised = examples / (examples / quick + pack_seconds / cells)
    print(
        f"Everything below the classifier frozen, end to end: {quick:.0f} examples/s on kept activations, {slow:.1f} "
        f"without: {quick / slow:.0f}×. Filling the caches of all depths took {pack_seconds:.1f} s for "
        f"{len(everything.rows)} images in all views; spread over {cells} cells of {material.config.steps} steps: "
        f"{amortised:.0f} examples/s, {amortised / slow:.0f}×.",
        flush=True,
    )


def _grid(config, material, depths, folder, dataset) -> None:
    config = config.copy_and_resolve_references()
    config.study.update({"depths": material.grid.axis[-3:], "learning_rates": (0.003, 0.01, 0.03)})
    for name in ("first", "second"):  # The second time everything is compiled, and timed.
        begun = time.monotonic()
        result = quietly(config, folder / name, dataset)
        wall = time.monotonic() - begun
        (folder / "second").mkdir(exist_ok=True)
        shutil.copy(folder / "first" / TIMING, folder / "second" / TIMING)
    block = pass_seconds(material)
    cells = [row for row in result.rows if not row["error"]]
    rows = len(dataset.train) + len(dataset.val)
    passes = 2 * rows + len(dataset.test)
    steps = sum(row["steps"] * depths[row["depth"]].kept for row in cells)
    must = passes * block + steps
    print(
        f"A grid of {len(cells)} cells took {duration(wall)} ({wall:.1f} s). What must be computed: {passes} images "
        f"through the source network at {1 / block:.1f}/s, {passes * block:.1f} s, and the steps of the layers above, "
        f"{steps:.1f} s: {must:.1f} s. {wall / must:.2f}×",
        flush=True,
    )
    if all(depths[depth].torch for depth in material.grid.axis[:-1]):
        # A layer more that is frozen would hardly change it.
        other = sum(
            row["steps"] * (depths[row["depth"]].torch or depths[material.grid.axis[-2]].torch) for row in cells
        )
        print(
            f"The same steps in the PyTorch loop, by the time of a step: {other:.1f} s, {other / wall:.1f}×.",
            flush=True,
        )


def _peak(config, gigabytes, folder) -> None:
    settings = {"cache": "memory", "cache_gb": gigabytes, "device_gb": gigabytes}
    without, within = (
        peak_of_study(config, changes, folder / name)
        for name, changes in (("without", {"cache": "none"}), ("within", settings))
    )
    print(
        f"Peak memory of the study: {without:.0f} MB with nothing kept, which is what its largest cell needs; "
        f"{within:.0f} MB with config.study.cache_gb and device_gb of {1e3 * gigabytes:.0f} MB each: "
        f"{within - without:+.0f} MB, {'within' if within - without <= 2e3 * gigabytes else 'ABOVE'} the budget."
    )


def pass_seconds(material: Material) -> float:
    """Time a pass of the source network: seconds a picture, in batches of 32."""
    model, size = material.source.model, material.preprocessing.image_size
    forward = jax.jit(lambda variables, x: model.apply(variables, material.preprocessing.normalise(x)))
    images, variables = np.zeros((32, size, size, 3), np.uint8), jax.device_put(material.source.variables)
    jax.block_until_ready(forward(variables, images))
    return quickest(lambda: forward(variables, images), 3) / 32
