"""The input of trials: which of them can train together, their batches, and evaluation on them."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from flax_augtl.features.activations import Activations, cut_names
from flax_augtl.features.feed import Feed, over_devices
from flax_augtl.features.views import EVALUATION
from flax_augtl.models.augmented import AugmentedNetwork
from flax_augtl.study.context import Context
from flax_augtl.study.grid import Trial
from flax_augtl.training import metrics
from flax_augtl.training.balance import class_weights
from flax_augtl.training.compiled_steps import pmapped_eval_step
from flax_augtl.training.evaluation_loop import batch_sums
from flax_augtl.training.freezing import FreezingPlan
from flax_augtl.training.optimizer import OptimizerSettings, optimizer_of
from flax_augtl.training.pmapped import replicate
from flax_augtl.training.step import StepSettings
from flax_augtl.training.step_inputs import KeptFeatures

EVALUATION_BATCH = 1024


@dataclasses.dataclass(frozen=True)
class StepSignature:
    """What trials must have in common to be trained together; they then share one compiled step.

    Attributes:
      network: that is trained.
      plan: which parameters are trained.
      optimizer: its settings.
      step: settings of the step.
      start: index of the layer group that reads the kept activations.
      total: number of steps.
      every: steps between two evaluations.
      final: whether they are final trials.
    """

    network: AugmentedNetwork
    plan: FreezingPlan
    optimizer: OptimizerSettings
    step: StepSettings
    start: int
    total: int
    every: int
    final: bool


def signature_of(context: Context, activations: Activations, trial: Trial) -> StepSignature:
    """Return the step signature of a trial."""
    network, config = context.network(trial), context.config
    rates, every = context.schedule(trial)
    labels = context.examples(trial)[1]
    start = activations.nearest(network, context.shared(trial))
    places = context.places(trial)
    step = StepSettings(
        label_smoothing=config.label_smoothing,
        accumulate=config.accumulate,
        class_weights=class_weights(config, labels, len(context.class_names)),
        inputs=KeptFeatures(start),
        losses=places.losses,
        normalisation=places.normalisation,
    )
    plan, final = context.freezing(trial), trial.stage == "final"
    optimizer = optimizer_of(config, places)
    return StepSignature(network, plan, optimizer, step, start, total=len(rates), every=every, final=final)


def is_dense(activations: Activations, network: AugmentedNetwork, start: int) -> bool:
    """Return whether only dense layers are trained above the kept activations, which layer group `start` reads."""
    if not start:
        return False
    names = jax.tree.leaves(cut_names(network, start))
    return all(activations.store.arrays[name].ndim == 2 for name in names)


def loops(activations: Activations, signature: StepSignature) -> bool:
    """Return whether the steps are looped over on the device; on a CPU, convolutions are slow in such a loop."""
    quick = jax.default_backend() != "cpu" or is_dense(activations, signature.network, signature.start)
    return quick and activations.fits(signature.network, signature.start)


def feed_of(activations: Activations, signature: StepSignature, decoders: ThreadPoolExecutor) -> Feed:
    """Return the feed of the trials of a step signature; the activations are on the device if they fit there."""
    return Feed(
        activations,
        signature.network,
        signature.start,
        activations.fits(signature.network, signature.start),
        decoders,
        replicate,
    )


def evaluate(
    context: Context,
    feed: Feed,
    variables: Any,
    ids: Sequence[Sequence[str]],
    labels: Sequence[np.ndarray],
    each: Callable[[int, np.ndarray], None] | None = None,
) -> list[dict[str, np.ndarray]]:
    """Return the sums of `metrics.evaluation_sums` for each of several trials, on its own examples.

    Args:
      context: of the study.
      feed: of the trials.
      variables: stacked [trials, ...].
      ids: of the examples of each trial.
      labels: of the examples of each trial.
      each: called for each batch with the index of a trial and the probabilities float32 [b, C] of its next examples.
    """
    trials, devices = len(ids), jax.local_device_count()
    longest = max(map(len, ids))
    size = EVALUATION_BATCH if is_dense(feed.activations, feed.network, feed.start) else context.config.batch_size
    size = math.ceil(min(size, longest) / devices) * devices
    # Flax modules have a hash, which pyright does not see.
    network: Any = feed.network
    step = pmapped_eval_step(network, context.preprocessing, KeptFeatures(feed.start), trials)
    padded = math.ceil(longest / size) * size
    rows, marks, masks = (np.zeros((trials, padded), dtype) for dtype in (np.int64, np.int32, np.float32))
    for trial in range(trials):
        n = len(ids[trial])
        rows[trial, :n] = feed.activations.rows.of(ids[trial], EVALUATION)
        marks[trial, :n], masks[trial, :n] = labels[trial], 1
    places = np.broadcast_to(np.arange(padded, dtype=np.int32), (trials, padded))

    def batches() -> Iterator[dict[str, Any]]:
        for i in range(0, padded, size):
            some = {"mask": masks, **({} if each is None else {"place": places})}
            some = {name: array[:, i : i + size] for name, array in some.items()}
            yield over_devices(feed.batch(rows[:, i : i + size], marks[:, i : i + size], **some), 1)

    def each_trial(where: np.ndarray, probabilities: np.ndarray) -> None:
        assert each is not None, "it is only called where there is one"
        for trial in range(trials):
            each(trial, probabilities[trial][where[trial] < len(ids[trial])])

    sums = list(batch_sums(step, variables, batches(), feed.pool, None if each is None else each_trial))
    return [
        metrics.add({name: np.asarray(value)[trial] for name, value in some.items()} for some in sums)
        for trial in range(trials)
    ]


def source_logits(context: Context, activations: Activations, ids: Sequence[str]) -> np.ndarray:
    """Return the outputs of the pretrained classification layer for evaluation views, float32 [n, Z]."""
    rows, top = activations.rows.of(ids, EVALUATION), context.source.groups[-1]
    if top in activations.store.arrays:
        return np.asarray(activations.store.arrays[top][rows], np.float32)
    with activations.rows.decoders() as decoders:
        made = [
            np.asarray(
                activations.compute(activations.rows.images(np.resize(part, 32), decoders), (top,))[top], np.float32
            )[: len(part)]
            for part in np.split(rows, range(32, len(rows), 32))
        ]
    return np.concatenate(made)
