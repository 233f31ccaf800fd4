"""Estimate the time of a study: time the pass that fills the caches, and a few steps of each depth."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from flax_augtl.config.value_types import is_a
from flax_augtl.features.activations import Activations
from flax_augtl.features.array_store import BLOCK, Store
from flax_augtl.runtime.text import columns, duration
from flax_augtl.study.context import Context
from flax_augtl.study.grid import Grid, Group, Trial
from flax_augtl.study.trials.batches import is_dense, loops, signature_of
from flax_augtl.study.trials.trial_batch import TrialBatch
from flax_augtl.training.pmapped import replicate

# So many trials are timed together if no number is given: more of them would save hardly any more time.
TOGETHER_ON_CPU, TOGETHER = 12, 32
COPIES = 4  # Of each trained parameter: itself, its momentum, its gradient and its update.
TRAINING = 3.0  # A forward and a backward pass take so many times as long as a forward pass.


@dataclasses.dataclass(frozen=True)
class Timing:
    """What was timed.

    Attributes:
      row_seconds: seconds for one row of the caches, including decoding.
      trial_seconds: seconds for a whole trial of each group, by "head depth classifier_rate"; without compilation.
      compile_seconds: seconds for compiling each group once.
      together: number of trials of each group that are trained together.
    """

    row_seconds: float
    trial_seconds: dict[str, float]
    compile_seconds: dict[str, float]
    together: dict[str, int]


def to_json(timing: Timing, devices: str) -> dict[str, Any]:
    """Return the contents of a study's timing.json.

    Args:
      timing: what was timed.
      devices: on which it was timed.
    """
    return {
        "devices": devices,
        "row_seconds": timing.row_seconds,
        "cell_seconds": timing.trial_seconds,
        "compile_seconds": timing.compile_seconds,
        "together": timing.together,
    }


def from_json(found: Any, devices: str, groups: Sequence[str]) -> Timing | None:
    """Return the timing in the contents of timing.json; None if it is damaged or of other devices or groups.

    Args:
      found: contents of the file.
      devices: on which the study runs.
      groups: names of the groups of the study.
    """
    if not isinstance(found, Mapping) or found.get("devices") != devices:
        return None
    values: Any = found
    rows = values.get("row_seconds")
    trials, compiled, together = (values.get(name) for name in ("cell_seconds", "compile_seconds", "together"))
    parts = trials, compiled, together
    if not is_a(rows, "number") or not all(isinstance(part, Mapping) and set(part) == set(groups) for part in parts):
        return None
    whole = is_a([*together.values()], "list of whole numbers")
    if not whole or not all(is_a([*part.values()], "list of numbers") for part in parts):
        return None
    return Timing(rows, dict(trials), dict(compiled), dict(together))


def measure(context: Context, activations: Activations, groups: Sequence[Group]) -> Timing:
    """Time a block of the caches, and some steps and an evaluation of each depth, on rows of zeros.

    A depth with convolutions is timed with its first head only, because the heads hardly differ there.
    """
    row_seconds = _time_rows(activations)
    # The arrays have their final size, so that the study uses what is compiled here.
    arrays = {name: np.zeros(array.shape, array.dtype) for name, array in activations.store.arrays.items()}
    blank = dataclasses.replace(activations, store=_Blank(arrays), _on_device=None)
    trials, compiled, together, known = {}, {}, {}, {}
    for group in groups:
        trial = Trial("select", *group, context.grid.rates[0], context.grid.selection_seeds[0])
        signature, name = signature_of(context, blank, trial), " ".join(group)
        dense = is_dense(blank, signature.network, signature.start)
        key = group if dense else (group[1], signature.start)
        if key not in known:
            known[key] = _time_group(context, blank, trial, dense)
        trials[name], compiled[name], together[name] = known[key]
    return Timing(row_seconds, trials, compiled, together)


def estimate(context: Context, activations: Activations, groups: Sequence[Group]) -> Timing:
    """Time a block of the caches and one dense head; estimate the rest by the operations of each layer group.

    This takes seconds where `measure` takes minutes. It is enough for a plan that is corrected during the study.
    """
    row_seconds, forward, compiled = _time_block(activations)
    operations = _operations(context)
    rate = sum(operations) / forward if forward else float("inf")  # Operations per second of all devices.
    arrays = {name: np.zeros(array.shape, array.dtype) for name, array in activations.store.arrays.items()}
    blank = dataclasses.replace(activations, store=_Blank(arrays), _on_device=None)
    trials, compile_seconds, together, timed = {}, {}, {}, None
    first = {group: Trial("select", *group, context.grid.rates[0], context.grid.selection_seeds[0]) for group in groups}
    # The head that trains least of the source network first: it is the one that is timed.
    for group, trial in sorted(first.items(), key=lambda one: sum(operations[context.shared(one[1]) :])):
        signature, name = signature_of(context, blank, trial), " ".join(group)
        trained = context.shared(trial)
        if is_dense(blank, signature.network, signature.start):
            together[name] = _most_together(context, trial)
            above = sum(operations[trained:])
            if timed is None:
                timed = (*_time_batch(context, blank, [trial] * together[name]), above)
            more = signature.total * context.config.batch_size * TRAINING * (above - timed[2]) / rate
            trials[name], compile_seconds[name] = timed[0] + more, timed[1]
            continue
        # A forward pass through frozen layers that are not kept; forward and backward passes through trained layers.
        read = sum(operations[signature.start : trained]) + TRAINING * sum(operations[trained:])
        validated = len(context.validation(trial.seed)) * -(-signature.total // signature.every)
        seconds = signature.total * context.config.batch_size * read + validated * sum(operations[signature.start :])
        trials[name], together[name] = seconds / rate, max(1, int(context.study.together))
        compile_seconds[name] = TRAINING * compiled * (1 - signature.start / len(operations))
    return Timing(row_seconds, trials, compile_seconds, together)


def _most_together(context: Context, trial: Trial) -> int:
    """Return the largest number of trials like this one that are trained together.

    The layers that they train, each with its momentum, gradient and update, must fit into config.study.device_gb: fc6 and
    fc7 of a VGG take 2 GB a trial.
    """
    groups = context.source.groups[context.shared(trial) :]
    params = context.source.variables["params"]
    size = sum(leaf.nbytes for group in groups for leaf in jax.tree.leaves(params.get(group, {})))
    room = int(1e9 * context.study.device_gb / (COPIES * size)) if size else TOGETHER
    return int(context.study.together) or min(
        TOGETHER_ON_CPU if jax.default_backend() == "cpu" else TOGETHER,
        len(context.grid.rates) * len(context.grid.selection_seeds),
        max(room, 1),
    )


def _time_block(activations: Activations) -> tuple[float, float, float]:
    """Return the seconds of a row of the caches, of its forward pass alone, and of the compilation."""
    names = tuple(activations.store.arrays)
    rows = np.resize(np.arange(len(activations.rows)), BLOCK)
    with activations.rows.decoders() as decoders:
        images = activations.rows.images(rows, decoders)
        begun = time.monotonic()
        jax.block_until_ready(activations.compute(images, names))
        first = time.monotonic() - begun
        begun = time.monotonic()
        jax.block_until_ready(activations.compute(images, names))
        forward = time.monotonic() - begun
        begun = time.monotonic()
        activations.rows.images(rows, decoders)
        decoded = time.monotonic() - begun
    # Decoding runs while the device works; on a CPU both share the cores.
    both = decoded + forward if jax.default_backend() == "cpu" else max(decoded, forward)
    return both / BLOCK, forward / BLOCK, max(first - forward, 0.0)


def _operations(context: Context) -> list[float]:
    """Return the number of operations of each layer group of the source network for one image."""
    model, variables, size = context.source.model, context.source.variables, context.preprocessing.image_size
    x, found = jax.ShapeDtypeStruct((1, size, size, 3), np.float32), []
    for index in range(len(model.groups)):
        lowered = jax.jit(lambda variables, x, index=index: model.apply(variables, x, index, index + 1)).lower(
            variables, x
        )
        x = jax.ShapeDtypeStruct(lowered.out_info.shape, lowered.out_info.dtype)
        counted = lowered.cost_analysis()
        found.append(float((counted[0] if isinstance(counted, list) else counted or {}).get("flops", 0.0)))
    return found


class _Blank(Store):
    """Arrays in place of a store, without files."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        super().__init__({}, 0, "")
        self.arrays = arrays


def _time_rows(activations: Activations) -> float:
    """Return the seconds of a row of the caches, including decoding."""
    names = tuple(activations.store.arrays)
    rows = np.resize(np.arange(len(activations.rows)), BLOCK)
    best = float("inf")
    with activations.rows.decoders() as decoders:
        for _ in range(2):  # The first one compiles.
            begun = time.monotonic()
            images = activations.rows.images(rows, decoders)
            decoded = time.monotonic() - begun
            if names:
                jax.block_until_ready(activations.compute(images, names))
            # Decoding runs while the device works.
            best = min(best, max(decoded, time.monotonic() - begun - decoded))
    return best / BLOCK


def _time_group(context: Context, blank: Activations, trial: Trial, dense: bool) -> tuple[float, float, int]:
    """Return (seconds of a trial, seconds of compilation, number of trials together)."""
    alone = _time_batch(context, blank, [trial])
    asked = int(context.study.together)
    signature = signature_of(context, blank, trial)
    if not loops(blank, signature) or asked == 1:
        return *alone, 1
    count = _most_together(context, trial)
    if count == 1:
        return *alone, 1
    some = _time_batch(context, blank, [trial] * count)
    return (*some, count) if some[0] < alone[0] or asked else (*alone, 1)


def _time_batch(context: Context, blank: Activations, trials: Sequence[Trial]) -> tuple[float, float]:
    """Return (seconds of a trial, seconds of compilation)."""
    batch = TrialBatch(context, blank, trials)
    try:
        compiled = batch.warm_up()
        states = replicate(jax.tree.map(np.array, batch.states))
        count = batch.steps_per_call
        begun = time.monotonic()
        states, losses = batch.run(states, batch.batches(0, count), 0, count)
        jax.block_until_ready(losses)
        step = (time.monotonic() - begun) / count
        begun = time.monotonic()
        batch.evaluate(states)
        evaluation = time.monotonic() - begun
        evaluations = -(-batch.signature.total // batch.signature.every)
        seconds = (batch.signature.total * step + evaluations * evaluation) / len(trials)
        return seconds, max(compiled - step - evaluation, 0.0)
    finally:
        batch.close()


def describe(
    grid: Grid, timing: Timing, *, rows: int, test_rows: int, kept: dict[str, int], finals: int, place: str
) -> str:
    """Return the plan of a study as text: its trials, and the time that they take.

    Args:
      grid: what is compared.
      timing: what was timed.
      rows: training and validation images in all of their views.
      test_rows: test images.
      kept: bytes that the caches take, by name.
      finals: number of settings that are retrained and tested.
      place: of the caches: `file`, `memory` or `none`.
    """
    lines: list[tuple[Any, ...]] = [("head", "freeze depth", "trials", "seconds a trial", "together", "in all")]
    total = 0.0
    for group in grid.groups():
        name, per = " ".join(group), len(grid.rates_of(group)) * len(grid.selection_seeds)
        seconds = timing.trial_seconds[name] * per + timing.compile_seconds[name]
        total += seconds
        head = group[0] + (" (at new rate)" if group[2] == "new" else "")
        each = f"{timing.trial_seconds[name]:.2f}"
        lines.append((head, grid.label(*group[:2]), per, each, timing.together[name], duration(seconds)))
    final = finals * len(grid.seeds)
    mean = sum(timing.trial_seconds.values()) / len(timing.trial_seconds)
    fill = (rows + test_rows) * timing.row_seconds if kept else 0.0
    size = sum(kept.values())
    where = {"file": "in files", "memory": "in memory", "none": "not kept"}[place]
    lines += [
        ("winners, retrained", "", final, f"{mean:.2f}", "", duration(final * mean)),
        ("kept activations", ", ".join(kept) or "none", "", "", "", duration(fill)),
    ]
    return columns(lines, align="<<>>>>", least=(22, 14, 6, 15, 9, 9), gap=" ") + (
        f"\n{grid.settings * len(grid.selection_seeds) + final} trials, {rows + test_rows} images in all views; "
        f"{size / 1e9:.2f} GB {where}; about {duration(total + final * mean + fill)} in all. If the "
        "lowest or highest learning rate is the best, further ones are tried."
    )
