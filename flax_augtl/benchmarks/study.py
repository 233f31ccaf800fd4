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

from flax_augtl.benchmarks.study_case import CLASSES, configuration, peak_of_study, quietly, striped_images
from flax_augtl.config.convert import typed
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
from flax_augtl.training.step import replicate


@dataclasses.dataclass(frozen=True)
class Depth:
    """Seconds of a step at one freeze depth.

    Attributes:
      kept: on kept activations: the layers that train, alone.
      recomputed: on images: the frozen layers' forward pass and the layers that train.
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


def step_cost(context: Context, activations: Activations, trial: Trial, repeats: int) -> tuple[float, float]:
    """Return the seconds, and the MB besides its arguments and results, of one step of a trial that is trained alone."""
    trial_batch = TrialBatch(context, activations, [trial])
    try:
        trial_batch.warm_up()
        states, count = replicate(trial_batch.states), trial_batch.steps_per_call
        times = []
        for _ in range(repeats):
            batches = trial_batch.batches(0, count)
            begun = time.perf_counter()
            states, losses = trial_batch.run(states, batches, 0, count)
            jax.block_until_ready(losses)
            times.append((time.perf_counter() - begun) / count)
        rates = np.zeros((count, 1), np.float32)
        lowered = trial_batch.step_function.lower(
            states, trial_batch.batches(0, count), rates, trial_batch.feed.pool, np.int32(count)
        )
        return min(times), _megabytes(lowered.compile())
    finally:
        trial_batch.close()


def prefix_cost(context: Context, trial: Trial, batch_size: int, repeats: int) -> tuple[float, float]:
    """Return the seconds and the MB of the frozen layers' forward pass over a batch of images."""
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
    """Train a trial; return its parameters, its validation accuracy, and the examples a second, evaluation included."""
    trial_batch = TrialBatch(context, activations, [trial])
    try:
        trial_batch.warm_up()
        begun = time.perf_counter()
        while not trial_batch.done:
            trial_batch.advance()
        seconds = time.perf_counter() - begun
        (row,) = trial_batch.results()
        return trial_batch.variables(0)["params"], row["val"]["top1"], row["examples_seen"] / seconds
    finally:
        trial_batch.close()


def benchmark(network: str = "resnet18", image_size: int = 224, batch_size: int = 32, repeats: int = 3) -> None:
    """Measure, and print as it goes.

    Args:
      network: a source network, with random weights: time does not depend on them.
      image_size: side of the images.
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


def _depths(context, everything, plain, network, batch_size, repeats) -> dict[str, Depth]:
    torch = (
        all(map(importlib.util.find_spec, ("torch", "torchvision")))
        and network.startswith("resnet")
        and "imagenet" == (context.source.model.stem)
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
    for depth in context.grid.axis:
        trial = _trial(context, depth)
        other = None
        if torch and depth != context.source.groups[-1]:
            from flax_augtl.benchmarks.torch_loop import seconds_per_example

            each, _ = seconds_per_example(
                network,
                depth,
                context.source.groups,
                CLASSES,
                context.preprocessing.image_size,
                (16, 32, 64),
                repeats,
            )
            other = each * batch_size
        costs = (
            step_cost(context, everything, trial, repeats),
            step_cost(context, plain, trial, repeats),
            prefix_cost(context, trial, batch_size, repeats),
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


def _agreement(context, everything, plain) -> None:
    for depth in context.grid.axis:
        trial = _trial(context, depth)
        one, top1, _ = trained(context, everything, trial)
        other, top1_other, _ = trained(context, plain, trial)
        one = {**one, "source": one.get("source", {})}
        # On images the frozen layers are there too.
        other = {**other, "source": {group: other["source"][group] for group in one["source"]}}
        difference = max(
            jax.tree.leaves(
                jax.tree.map(lambda a, b: float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)), one, other)
            )
        )
        n = len(context.datasets[0].val)
        error = math.sqrt(max(top1 * (1 - top1), 1 / n) / n)
        print(
            f"{depth}: after {context.config.steps} steps kept and recomputed differ by {difference:.1e} of the largest "
            f"parameter; validation {top1:.3f} and {top1_other:.3f} (standard error {error:.3f})",
            flush=True,
        )


def _all(context, everything, plain) -> None:
    trial = _trial(context, context.grid.axis[-2])
    _, _, quick = trained(context, everything, trial)
    _, _, slow = trained(context, plain, trial)
    fill_seconds = everything.fill_seconds
    trials = 120  # Of the preset `paper` at this depth: four heads, five rates, six seeds.
    examples = context.config.steps * context.config.batch_size
    amortised = examples / (examples / quick + fill_seconds / trials)
    print(
        f"Everything below the classifier frozen, end to end: {quick:.0f} examples/s on kept activations, {slow:.1f} "
        f"without: {quick / slow:.0f}×. Filling the caches of all depths took {fill_seconds:.1f} s for "
        f"{len(everything.rows)} images in all views; spread over {trials} trials of {context.config.steps} steps: "
        f"{amortised:.0f} examples/s, {amortised / slow:.0f}×.",
        flush=True,
    )


def _grid(config, context, depths, folder, dataset) -> None:
    config = config.copy_and_resolve_references()
    config.study.update({"depths": context.grid.axis[-3:], "learning_rates": (0.003, 0.01, 0.03)})
    for name in ("first", "second"):  # The second time everything is compiled, and timed.
        begun = time.monotonic()
        result = quietly(config, folder / name, dataset)
        wall = time.monotonic() - begun
        (folder / "second").mkdir(exist_ok=True)
        shutil.copy(folder / "first" / TIMING, folder / "second" / TIMING)
    block = pass_seconds(context)
    trials = [row for row in result.rows if not row["error"]]
    rows = len(dataset.train) + len(dataset.val)
    passes = 2 * rows + len(dataset.test)
    steps = sum(row["steps"] * depths[row["depth"]].kept for row in trials)
    must = passes * block + steps
    print(
        f"A grid of {len(trials)} trials took {duration(wall)} ({wall:.1f} s). What must be computed: {passes} images "
        f"through the source network at {1 / block:.1f}/s, {passes * block:.1f} s, and the steps of the layers above, "
        f"{steps:.1f} s: {must:.1f} s. {wall / must:.2f}×",
        flush=True,
    )
    if all(depths[depth].torch for depth in context.grid.axis[:-1]):
        # A layer more that is frozen would hardly change it.
        other = sum(
            row["steps"] * (depths[row["depth"]].torch or depths[context.grid.axis[-2]].torch) for row in trials
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
        f"Peak memory of the study: {without:.0f} MB with nothing kept, which is what its largest trial needs; "
        f"{within:.0f} MB with config.study.cache_gb and device_gb of {1e3 * gigabytes:.0f} MB each: "
        f"{within - without:+.0f} MB, {'within' if within - without <= 2e3 * gigabytes else 'ABOVE'} the budget."
    )


def pass_seconds(context: Context) -> float:
    """Time a pass of the source network: seconds an image, in batches of 32."""
    model, size = context.source.model, context.preprocessing.image_size
    forward = jax.jit(lambda variables, x: model.apply(variables, context.preprocessing.normalise(x)))
    images, variables = np.zeros((32, size, size, 3), np.uint8), jax.device_put(context.source.variables)
    jax.block_until_ready(forward(variables, images))
    return quickest(lambda: forward(variables, images), 3) / 32
