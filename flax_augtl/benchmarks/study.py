"""Measure how much time a study saves by keeping activations: `python -m flax_augtl.study benchmark`."""

import dataclasses
import importlib.util
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from flax_augtl.benchmarks.study_case import CLASSES, configuration, peak_of_study, quietly, striped_images
from flax_augtl.config.convert import typed
from flax_augtl.data.types import Dataset
from flax_augtl.features.activations import IMAGES, Activations, open_activations
from flax_augtl.features.views import training_rows
from flax_augtl.models import create_model
from flax_augtl.models.initializers import random_variables
from flax_augtl.pretrained import Preprocessing
from flax_augtl.pretrained.save import write_safetensors
from flax_augtl.runtime.text import columns, duration
from flax_augtl.study.caches import needed
from flax_augtl.study.context import Context, gather
from flax_augtl.study.grid import Trial
from flax_augtl.study.study_folder import TIMING
from flax_augtl.study.trials.trial_batch import TrialBatch
from flax_augtl.training.pmapped import replicate


@dataclasses.dataclass(frozen=True)
class Depth:
    """Seconds of a step at one freeze depth.

    Attributes:
      kept: on kept activations: only the trained layers.
      recomputed: on images: the forward pass of the frozen layers, and the trained layers.
      prefix: only the forward pass of the frozen layers.
      torch: of a plain PyTorch loop, for as many examples; None without PyTorch.
      memory: MB of temporary memory on the device, for `kept`, `recomputed` and `prefix`.
    """

    kept: float
    recomputed: float
    prefix: float
    torch: float | None
    memory: tuple[float, float, float]


def quickest(function: Callable[[], Any], repeats: int) -> float:
    """Return the shortest of several durations in seconds, since another load on the machine only adds to them."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - begun)
    return min(times)


def _megabytes(compiled: Any) -> float:
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def step_cost(context: Context, activations: Activations, trial: Trial, repeats: int) -> tuple[float, float]:
    """Return the seconds and the MB of temporary memory of one step of a trial that is trained alone."""
    batch = TrialBatch(context, activations, [trial])
    try:
        batch.warm_up()
        states, count = replicate(batch.states), batch.steps_per_call
        times = []
        for _ in range(repeats):
            batches = batch.batches(0, count)
            begun = time.perf_counter()
            states, losses = batch.run(states, batches, 0, count)
            jax.block_until_ready(losses)
            times.append((time.perf_counter() - begun) / count)
        rates = np.zeros((count, 1), np.float32)
        # It is compiled already, for arguments of these shapes.
        step = batch.step_function.compiled(states, batch.batches(0, count), rates, batch.feed.pool, np.int32(count))
        return min(times), step.memory.temporary / 1e6 if step.memory else math.nan
    finally:
        batch.close()


def prefix_cost(context: Context, trial: Trial, batch_size: int, repeats: int) -> tuple[float, float]:
    """Return the seconds and the MB of the forward pass of the frozen layers over a batch of images."""
    model, depth = context.source.model, context.freezing(trial).depth
    if not depth:
        return 0.0, 0.0
    images = np.zeros((batch_size, *(context.preprocessing.image_size,) * 2, 3), np.uint8)
    variables = jax.device_put(context.source.variables)
    forward = (
        jax.jit(lambda variables, x: model.apply(variables, context.preprocessing.normalise(x), 0, depth))
        .lower(variables, images)
        .compile()
    )
    jax.block_until_ready(forward(variables, images))
    return quickest(lambda: forward(variables, images), repeats), _megabytes(forward)


def trained(context: Context, activations: Activations, trial: Trial) -> tuple[Any, float, float]:
    """Train a trial; return its parameters, its validation accuracy, and examples per second with evaluation."""
    batch = TrialBatch(context, activations, [trial])
    try:
        batch.warm_up()
        begun = time.perf_counter()
        while not batch.done:
            batch.advance()
        seconds = time.perf_counter() - begun
        (row,) = batch.results()
        return batch.variables(0)["params"], row["val"]["top1"], row["examples_seen"] / seconds
    finally:
        batch.close()


def benchmark(network: str = "resnet18", image_size: int = 224, batch_size: int = 32, repeats: int = 3) -> None:
    """Measure, and print the results.

    Args:
      network: a source network; its random weights do not affect the time.
      image_size: side of the images.
      batch_size: of the steps.
      repeats: number of timed calls of each function; the fastest counts.
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
        dataset = striped_images(3 * batch_size // CLASSES + 8, image_size)
        context = gather(typed(config), {0: dataset})
        rows = training_rows([dataset], context.preprocessing, context.config.data)

        def opened(names: list[str]) -> Activations:
            found = open_activations(
                rows,
                context.source.model,
                context.source.variables,
                context.preprocessing,
                names,
                place="memory",
                budget=1e12,
                device_bytes=1e12,
                dtype="float32",
                key="",
                folder=None,
            )
            found.fill()
            return found

        everything, plain = opened(needed(context)), opened([IMAGES])
        depths = _depths(context, everything, plain, network, batch_size, repeats)
        _agreement(context, everything, plain)
        _all(context, everything, plain)
        _grid(config, context, depths, Path(folder), dataset)
        _peak(config, everything.store.bytes / 2e9, Path(folder))


def _trial(context: Context, depth: str) -> Trial:
    head = "kept" if depth not in context.grid.depths["traditional"] else "traditional"
    return Trial("select", head, depth, "pretrained", 0.01, 0)


def _depths(
    context: Context, everything: Activations, plain: Activations, network: str, batch_size: int, repeats: int
) -> dict[str, Depth]:
    """Time every freeze depth, and print a table.

    Args:
      context: of the study.
      everything: with all activations kept.
      plain: with images only.
      network: name of the source network.
      batch_size: of the steps.
      repeats: number of timed calls of each function; the fastest counts.
    """
    model: Any = context.source.model
    installed = all(map(importlib.util.find_spec, ("torch", "torchvision")))
    torch = installed and network.startswith("resnet") and model.stem == "imagenet"
    found: dict[str, Depth] = {}
    table: list[tuple[str, ...]] = [
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
    ]
    for depth in context.grid.axis:
        trial = _trial(context, depth)
        other = None
        if torch and depth != context.source.groups[-1]:
            from flax_augtl.benchmarks.torch_loop import seconds_per_example

            each, _ = seconds_per_example(
                network,
                depth,
                context.source.groups,
                classes=CLASSES,
                image_size=context.preprocessing.image_size,
                batch_sizes=(16, 32, 64),
                repeats=repeats,
            )
            other = each * batch_size
        kept, kept_mb = step_cost(context, everything, trial, repeats)
        recomputed, recomputed_mb = step_cost(context, plain, trial, repeats)
        prefix, prefix_mb = prefix_cost(context, trial, batch_size, repeats)
        megabytes = (kept_mb, recomputed_mb, prefix_mb)
        found[depth] = Depth(kept, recomputed, prefix, other, megabytes)
        table.append(
            (
                depth,
                f"{kept:.4f} s",
                f"{recomputed:.3f} s",
                f"{prefix:.3f} s",
                f"{recomputed / (prefix + kept):.2f}",
                "–" if other is None else f"{other:.3f} s",
                "–" if other is None else f"{other / kept:.1f}×",
                *(f"{each:.0f}" for each in megabytes),
            )
        )
        print(f"  {depth} is timed.", flush=True)
    print(columns(table), flush=True)
    return found


def _agreement(context: Context, everything: Activations, plain: Activations) -> None:
    """Print how much training on kept activations and on images differs."""
    for depth in context.grid.axis:
        trial = _trial(context, depth)
        one, top1, _ = trained(context, everything, trial)
        other, top1_other, _ = trained(context, plain, trial)
        one = {**one, "source": one.get("source", {})}
        # Trained on images, the frozen layers are there, too.
        other = {**other, "source": {group: other["source"][group] for group in one["source"]}}
        difference = max(
            jax.tree.leaves(
                jax.tree.map(lambda a, b: float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)), one, other)
            )
        )
        n = len(context.validation(0))
        error = math.sqrt(max(top1 * (1 - top1), 1 / n) / n)
        print(
            f"{depth}: after {context.config.steps} steps kept and recomputed differ by {difference:.1e} of the largest "
            f"parameter; validation {top1:.3f} and {top1_other:.3f} (standard error {error:.3f})",
            flush=True,
        )


def _all(context: Context, everything: Activations, plain: Activations) -> None:
    """Print the speed with everything below the classifier frozen, from end to end."""
    trial = _trial(context, context.grid.axis[-2])
    _, _, quick = trained(context, everything, trial)
    _, _, slow = trained(context, plain, trial)
    fill_seconds = everything.fill_seconds
    trials = 120  # As in the preset `paper` at this depth: four heads, five rates, six seeds.
    steps = len(context.schedule(trial)[0])
    examples = steps * context.config.batch_size
    amortised = examples / (examples / quick + fill_seconds / trials)
    print(
        f"Everything below the classifier frozen, end to end: {quick:.0f} examples/s on kept activations, {slow:.1f} "
        f"without: {quick / slow:.0f}×. Filling the caches of all depths took {fill_seconds:.1f} s for "
        f"{len(everything.rows)} images in all views; spread over {trials} trials of {steps} steps: "
        f"{amortised:.0f} examples/s, {amortised / slow:.0f}×.",
        flush=True,
    )


def _grid(config: ConfigDict, context: Context, depths: Mapping[str, Depth], folder: Path, dataset: Dataset) -> None:
    """Run a whole study, and print how its time compares with what it must compute."""
    changed: Any = config.copy_and_resolve_references()
    changed.study.update({"depths": context.grid.axis[-3:], "learning_rates": (0.003, 0.01, 0.03)})
    for name in ("first", "second"):  # The second time, everything is compiled and timed already.
        begun = time.monotonic()
        result = quietly(changed, folder / name, dataset)
        wall = time.monotonic() - begun
        (folder / "second").mkdir(exist_ok=True)
        shutil.copy(folder / "first" / TIMING, folder / "second" / TIMING)
    block = pass_seconds(context)
    trials = [row for row in result.rows if not row["error"]]
    rows = len(dataset.train) + len(context.validation(0))
    passes = 2 * rows + len(dataset.test)
    steps = sum(row["steps"] * depths[row["depth"]].kept for row in trials)
    must = passes * block + steps
    print(
        f"A grid of {len(trials)} trials took {duration(wall)} ({wall:.1f} s). What must be computed: {passes} images "
        f"through the source network at {1 / block:.1f}/s, {passes * block:.1f} s, and the steps of the layers above, "
        f"{steps:.1f} s: {must:.1f} s. {wall / must:.2f}×",
        flush=True,
    )
    timed = ((depth, depths[depth].torch) for depth in context.grid.axis[:-1])
    torch = {depth: seconds for depth, seconds in timed if seconds}
    if len(torch) == len(context.grid.axis) - 1:
        # Freezing another layer would hardly change the time.
        other = sum(row["steps"] * torch.get(row["depth"], torch[context.grid.axis[-2]]) for row in trials)
        print(
            f"The same steps in the PyTorch loop, by the time of a step: {other:.1f} s, {other / wall:.1f}×.",
            flush=True,
        )


def _peak(config: ConfigDict, gigabytes: float, folder: Path) -> None:
    """Print the peak memory of a study without kept activations, and with a budget for them."""
    settings = {"cache": "memory", "cache_gb": gigabytes, "device_gb": gigabytes}
    without, within = (
        peak_of_study(config, changes, folder / name)
        for name, changes in (("without", {"cache": "none"}), ("within", settings))
    )
    print(
        f"Peak memory of the study: {without:.0f} MB with nothing kept, which is what its largest trial needs; "
        f"{within:.0f} MB with config.study.cache_gb and device_gb of {1e3 * gigabytes:.0f} MB each: "
        f"{within - without:+.0f} MB, {'within' if within - without <= 2e3 * gigabytes else 'ABOVE'} the budget."
    )


def pass_seconds(context: Context) -> float:
    """Return the seconds for an image in a pass of the source network, in batches of 32."""
    model, size = context.source.model, context.preprocessing.image_size
    forward = jax.jit(lambda variables, x: model.apply(variables, context.preprocessing.normalise(x)))
    images, variables = np.zeros((32, size, size, 3), np.uint8), jax.device_put(context.source.variables)
    jax.block_until_ready(forward(variables, images))
    return quickest(lambda: forward(variables, images), 3) / 32
