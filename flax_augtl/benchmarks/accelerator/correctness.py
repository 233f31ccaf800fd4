"""Part b: whether the device computes what it should."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.benchmarks.accelerator.runner import Context
from flax_augtl.benchmarks.accelerator.workload import CLASSES, RATE, Case, build, fresh_step
from flax_augtl.models import create_model
from flax_augtl.models.initializers import random_variables
from flax_augtl.training.step_inputs import Images, KeptFeatures

FAMILIES = ("resnet18", "resnet50", "vgg16", "vgg11_bn")
# Largest difference of logits, over the largest logit, that counts as the same; matrix products of these dtypes read
# 24, 11 and 8 bits of a number, and a network has many of them.
TOLERANCES = {"float32 highest": 1e-4, "float32 tensorfloat32": 2e-2, "bfloat16": 1e-1}
NEEDED = 20


def run(context: Context) -> None:
    """Check. What needs processes of its own comes first: this one would take the device's memory."""
    cases = {"deterministic": _deterministic, "main job": _main_job, "frozen": _frozen, "kept features": _kept}
    for name, check in cases.items():
        if context.enough(name, NEEDED):
            with context.results.case(name):
                check(context)
    for family in FAMILIES:
        if context.enough(f"logits of {family}", NEEDED):
            with context.results.case(f"logits of {family}"):
                _logits(context, family)


def _deterministic(context: Context) -> None:
    """Train twice, and once with an interruption, with `config.deterministic`, and compare every bit of the ends."""
    steps, until = 2 * context.sizes.check_steps, _until(context)
    with tempfile.TemporaryDirectory() as folder:
        names = ("first", "second", "resumed")
        command = _command(steps)
        begun = time.monotonic()
        running = {name: _start([*command, f"--workdir={folder}/{name}"]) for name in names}
        try:
            stopped = _interrupt(running["resumed"], Path(folder) / "resumed" / "metrics.jsonl", until)
            for name in names[:2]:
                _finish(running[name], until)
            running["again"] = _start([*command, f"--workdir={folder}/resumed"])
            _finish(running["again"], until)
        finally:
            for process in running.values():
                process.kill()
        from flax_augtl.run import load_run

        ends = {name: load_run(f"{folder}/{name}", step="last").variables for name in names}
        for other, what in (("second", "two runs"), ("resumed", f"interrupted after step {stopped} of {steps}")):
            context.results.row(
                f"deterministic: {what}",
                same_bits=same_bits(ends["first"], ends[other]),
                largest_difference=largest_difference(ends["first"], ends[other]),
                seconds=round(time.monotonic() - begun, 1),
            )


def _command(steps: int) -> list[str]:
    values = {
        "name": "deterministic",
        "network": "resnet20",
        "weights": "embedded:glyphs",
        "freeze": "layer1",
        "deterministic": True,
        "report": False,
        "familiarity": False,
        "image_size": 16,
        "batch_size": 32,
        "steps": steps,
        "log_every_steps": 1,
        "evaluate_every_steps": steps // 4,
        "data.name": "digits",
        "data.shots": 10,
        "data.crop": "none",
        "data.flip": "none",
        "data.shift": 1,
        "data.scan_dir": "",
    }
    return [
        sys.executable,
        "main.py",
        "--config=configs/common.py",
        *(f"--config.{name}={value}" for name, value in values.items()),
    ]


def _start(command: Sequence[str]) -> subprocess.Popen:
    # Several of them share the device.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _until(context: Context) -> float:
    """Return when a check that waits for other processes gives up, so that time is left for those after it."""
    return time.monotonic() + context.left / 2


def _finish(process: subprocess.Popen, until: float) -> None:
    said, _ = process.communicate(timeout=max(1.0, until - time.monotonic()))
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with exit code {process.returncode}:\n{said[-2000:]}")


def _interrupt(process: subprocess.Popen, metrics: Path, until: float) -> int:
    """Ask a training to end once it has taken a step, and return the step that it ended after."""
    while process.poll() is None and time.monotonic() < until:
        if metrics.exists() and len(metrics.read_text().splitlines()) > 1:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    process.communicate(timeout=max(1.0, until - time.monotonic()))
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else [{"step": 0}]
    return max(row["step"] for row in rows)


def _main_job(context: Context) -> None:
    """Train the embedded default, and report its test accuracies."""
    steps, until = context.sizes.main_steps, _until(context)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "main.py", "--config=configs/digits.py", f"--workdir={folder}"]
        if steps:
            command += ["--config.report=False", "--config.familiarity=False"]
            # Each variant sets these fields itself.
            for variant in ("kept_deeper", "traditional", "scratch"):
                command += [f"--config.variants.{variant}.steps={steps}"]
            command += [
                f"--config.variants.scratch.evaluate_every_steps={steps}",
                f"--config.variants.scratch.schedule.warmup_steps={max(1, steps // 10)}",
            ]
        begun = time.monotonic()
        process = _start(command)
        try:
            _finish(process, until)
        finally:
            process.kill()
        seconds = time.monotonic() - begun
        for path in sorted(Path(folder).glob("*/result.json")):
            result = json.loads(path.read_text())
            context.results.row(
                f"main job: {path.parent.name}",
                test_top1=result["test"]["top1"],
                n=result["test"]["n"],
                training_seconds=result["seconds"],
                all_seconds=round(seconds, 1),
            )


def _frozen(context: Context) -> None:
    """Take some steps with weight decay, and compare the bits of what is frozen."""
    sizes = context.sizes
    for network, depth in (("resnet18", "layer3"), ("vgg16", "conv4")):
        workload = build(Case(network, depth, "bfloat16", sizes.batches[-1]), sizes)
        state, pool = workload.state(), workload.on_device()
        for batch in workload.batches(sizes.check_steps):
            state, _ = workload.step(state, batch, RATE, pool)
        frozen = workload.plan.groups[: workload.plan.depth]
        before, after = (
            _groups({"params": tree["params"], "batch_stats": tree["batch_stats"]}, frozen)
            for tree in (workload.variables, {"params": state.params, "batch_stats": state.batch_stats})
        )
        trained = same_bits(workload.variables["params"]["head"], state.params["head"])
        context.results.row(
            f"frozen: {network} up to {depth}",
            steps=sizes.check_steps,
            same_bits=same_bits(before, after),
            leaves=len(jax.tree.leaves(before)),
            head_changed=not trained,
        )


def _groups(variables: Mapping[str, Any], groups: Sequence[str]) -> dict[str, Any]:
    return {
        name: {group: leaves for group, leaves in tree.get("source", {}).items() if group in groups}
        for name, tree in variables.items()
    }


def _kept(context: Context) -> None:
    """Train on features of the frozen layers that were computed once, and on the images, and compare what is trained."""
    sizes = context.sizes
    workload = build(Case("resnet18", "layer3", "float32", sizes.batches[-1]), sizes)
    depth, network = workload.plan.depth, workload.network
    # Without a random crop or flip, so that both see the same images.
    plain = dataclasses.replace(workload.settings, flip="none", inputs=Images())
    on_kept = dataclasses.replace(plain, inputs=KeptFeatures(depth))
    steps = {
        "images": fresh_step(network, workload.plan, workload.preprocessing, plain),
        "kept": fresh_step(network, workload.plan, workload.preprocessing, on_kept),
    }
    side = sizes.image_size

    @jax.jit
    def features(variables, images):
        return network.apply(variables, workload.preprocessing.normalise(images), 0, depth)

    states = {name: workload.state() for name in steps}
    for batch in workload.batches(sizes.check_steps):
        shared = {name: batch[name] for name in ("label", "id", "view")}
        images = jnp.asarray(workload.pool.images)[batch["index"]][:, :, :side, :side]
        flat = images.reshape(-1, *images.shape[2:])
        kept = features(workload.variables, flat)
        given = {"images": {"image": images}, "kept": {"inputs": kept.reshape(*images.shape[:2], *kept.shape[1:])}}
        for name, step in steps.items():
            states[name], _ = step(states[name], {**shared, **given[name]}, RATE, None)
    difference = largest_difference(*(state.params for state in states.values()))
    moved = largest_difference(workload.variables["params"], states["kept"].params)
    context.results.row(
        "kept features: resnet18 up to layer3, float32",
        steps=sizes.check_steps,
        largest_difference=difference,
        within_1e_4=difference <= 1e-4,
        largest_update=moved,
    )


def _logits(context: Context, family: str) -> None:
    """Compare the logits of a family with those that the CPU computes in float32."""
    sizes = context.sizes
    settings = sizes.variants.get(family.removesuffix("_bn").replace("vgg11", "vgg16"), {})
    model = create_model(family, num_classes=CLASSES, **settings)
    images = np.random.default_rng(0).normal(size=(4, sizes.image_size, sizes.image_size, 3)).astype(np.float32)
    host = jax.devices("cpu")[0]
    variables = jax.tree.map(np.asarray, random_variables(model))
    with jax.default_device(host), jax.default_matmul_precision("highest"):
        golden = np.asarray(jax.jit(model.apply)(variables, images))
    values: dict[str, Any] = {}
    for name, tolerance in TOLERANCES.items():
        dtype, _, precision = name.partition(" ")
        with jax.default_matmul_precision(precision or "default"):
            found = np.asarray(jax.jit(model.clone(dtype=jnp.dtype(dtype)).apply)(variables, images))
        difference = float(np.abs(found - golden).max() / np.abs(golden).max())
        values |= {name: difference, f"{name} within {tolerance:g}": difference <= tolerance}
    context.results.row(f"logits of {family}", **values)


def same_bits(one: Any, other: Any) -> bool:
    """Return whether two trees of arrays are equal in every bit."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def largest_difference(one: Any, other: Any) -> float:
    """Return the largest difference between two trees of arrays."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(np.asarray(a, np.float64) - np.asarray(b)).max(initial=0)) for a, b in pairs)
