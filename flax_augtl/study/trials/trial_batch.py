"""Trials that are trained together on kept activations, each with its own data, order, weights and learning rate."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from flax_augtl.data.loading import sampler
from flax_augtl.features.activations import Activations
from flax_augtl.features.feed import over_devices
from flax_augtl.runtime.prefetch import one_ahead
from flax_augtl.study.context import Context
from flax_augtl.study.grid import Trial
from flax_augtl.study.trials.batches import evaluate, feed_of, loops, signature_of, source_logits
from flax_augtl.study.trials.predictions import tested_trials
from flax_augtl.training import metrics
from flax_augtl.training.compiled_steps import pmapped_pack_step
from flax_augtl.training.freezing import FROZEN, PRETRAINED, FreezingPlan
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.pmapped import CompiledStep, PmappedStep, replicate
from flax_augtl.training.state import TrainState, create_state

STEPS_PER_CALL = 50


class TrialBatch:
    """Some trials of one step signature in training."""

    def __init__(
        self,
        context: Context,
        activations: Activations,
        trials: Sequence[Trial],
        *,
        size: int = 0,
        test: Activations | None = None,
    ):
        """Set up trials at their first step.

        Args:
          context: what all trials share.
          activations: of training and validation images.
          trials: that are trained together; all have the same step signature.
          size: fill the batch up to so many by repeating the last trial, which can be cheaper than compiling again.
          test: activations of the test images, for final trials.
        """
        self.context, self.test = context, test
        self.distinct = len(trials)
        self.trials = (*trials, *[trials[-1]] * (size - len(trials)))
        trials = self.trials
        self.signature = signature_of(context, activations, trials[0])
        rows = activations.rows
        looped = loops(activations, self.signature)
        self.steps_per_call = min(STEPS_PER_CALL, self.signature.every, self.signature.total) if looped else 1
        self.decoders = rows.decoders()
        self.batch_size = context.config.batch_size
        self.feed = feed_of(activations, self.signature, self.decoders)
        self._examples = [context.examples(trial) for trial in trials]
        self._positions = [rows.positions(ids) for ids, _ in self._examples]
        self._rates = np.stack([context.schedule(trial)[0] for trial in trials], axis=1)
        optimizer = create_optimizer(self.signature.optimizer, self.signature.plan)
        initial = [context.variables(trial, self.signature.start, self._leep_inputs(trial)) for trial in trials]
        self.initial = [variables["params"] for variables in initial]
        states = [
            create_state(variables, optimizer, self.signature.plan, trial.seed)
            for variables, trial in zip(initial, trials, strict=True)
        ]
        self.states: TrainState = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
        self._compiled: CompiledStep | None = None
        self.step = 0
        self.seconds = 0.0
        self.losses = np.zeros(len(trials), np.float64)  # Sums since the last evaluation.
        self.history: list[list[dict[str, Any]]] = [[] for _ in trials]
        self.diverged = [False] * len(trials)

    def _leep_inputs(self, trial: Trial) -> np.ndarray | None:
        if self.context.settings(trial).classifier_init_from != "leep":
            return None
        return source_logits(self.context, self.feed.activations, self.context.examples(trial)[0])

    def batches(self, first: int, count: int) -> dict[str, Any]:
        """Return the input of `count` steps from step `first` on."""
        size, config = self.batch_size, self.context.config
        rows, labels = [], []
        for trial, (_, marks), positions in zip(self.trials, self._examples, self._positions, strict=True):
            which, view = sampler.stream(
                first * size, (first + count) * size, len(marks), trial.seed, views=config.data.views
            )
            rows.append(self.feed.activations.rows.at(positions[which], view).reshape(count, size))
            labels.append(marks[which].reshape(count, size))
        rows, labels = np.stack(rows, axis=1), np.stack(labels, axis=1)
        if count < self.steps_per_call:  # The last call before an evaluation is shorter; the padding is not trained on.
            rows, labels = (np.pad(x, ((0, self.steps_per_call - count), (0, 0), (0, 0))) for x in (rows, labels))
        return over_devices(self.feed.batch(rows, labels), 2)

    @property
    def step_function(self) -> PmappedStep:
        """The step that `run` compiles and calls."""
        # Flax modules have a hash, which pyright does not see.
        network: Any = self.signature.network
        return pmapped_pack_step(
            network,
            self.signature.plan,
            self.signature.optimizer,
            self.context.preprocessing,
            self.signature.step,
            trials=len(self.trials),
            steps=self.steps_per_call,
        )

    def run(self, states: TrainState, batches: Any, first: int, count: int) -> tuple[TrainState, Any]:
        """Take `count` steps; return the new states and the sums of the losses [trials]. The given states are donated."""
        rates = np.zeros((self.steps_per_call, len(self.trials)), np.float32)
        rates[:count] = self._rates[first : first + count]
        arguments = states, batches, rates, self.feed.pool, np.int32(count)
        if self._compiled is None:
            self._compiled = self.step_function.compiled(*arguments)
        return self._compiled(*arguments)

    def warm_up(self) -> float:
        """Compile everything by running it on copies; return the seconds that this took."""
        begun = time.monotonic()
        states, losses = self.run(replicate(jax.tree.map(np.array, self.states)), self.batches(0, 1), 0, 1)
        if not self.signature.final:
            self.evaluate(states)
        jax.block_until_ready(losses)
        return time.monotonic() - begun

    def evaluate(self, states: TrainState) -> list[dict[str, Any]]:
        """Return the metrics of each trial on its validation split."""
        splits = [self.context.validation(trial.seed) for trial in self.trials]
        sums = evaluate(
            self.context,
            self.feed,
            _variables(states),
            [split.ids for split in splits],
            [split.labels for split in splits],
        )
        return [metrics.summary(each) for each in sums]

    @property
    def examples_seen(self) -> int:
        """The number of training examples that each trial has seen."""
        return self.step * self.batch_size

    def advance(self, pause: Callable[[], bool] = lambda: False) -> None:
        """Train up to the next evaluation, and evaluate.

        Args:
          pause: called after every call of the step; if it returns True, training stops there and can be saved.
        """
        begun = time.monotonic()
        before = self.step // self.signature.every * self.signature.every
        stop = min(before + self.signature.every, self.signature.total)
        states = self.states if isinstance(jax.tree.leaves(self.states)[0], jax.Array) else replicate(self.states)
        calls = [
            (first, min(self.steps_per_call, stop - first)) for first in range(self.step, stop, self.steps_per_call)
        ]
        pending = None
        with contextlib.closing(one_ahead(lambda call: self.batches(*call), calls)) as ahead:
            for (first, count), batches in zip(calls, ahead, strict=False):
                states, losses = self.run(states, batches, first, count)
                # Read the losses of the call before, so that the device never waits.
                self.losses += 0.0 if pending is None else np.asarray(pending)
                pending, self.step = losses, first + count
                if self.step < stop and pause():
                    break
        self.losses += np.asarray(pending)
        self.states = states
        if self.step < stop:
            self.seconds += (time.monotonic() - begun) / self.distinct
            return
        losses, self.losses = self.losses / (stop - before), np.zeros_like(self.losses)
        self._record(states, losses, begun)

    def _record(self, states: TrainState, losses: np.ndarray, begun: float) -> None:
        """Evaluate at the current step, and note what was measured.

        Args:
          states: of the trials.
          losses: mean training loss of each trial since the last evaluation.
          begun: when the training since then began, by `time.monotonic`.
        """
        values: Sequence[dict[str, Any] | None]
        values = [None] * len(self.trials) if self.signature.final else self.evaluate(states)
        self.seconds += (time.monotonic() - begun) / self.distinct
        for index, (loss, value) in enumerate(zip(losses.tolist(), values, strict=True)):
            finite = math.isfinite(loss) and (value is None or math.isfinite(value["loss"]))
            self.diverged[index] |= not finite
            if not finite:
                continue
            self.history[index].append(
                {
                    "step": self.step,
                    "examples": self.examples_seen,
                    "seconds": self.seconds,
                    "loss": loss,
                    "val": None if value is None else value[self.context.metric],
                    "val_loss": None if value is None else value["loss"],
                    "values": value,
                }
            )

    @property
    def done(self) -> bool:
        """Whether training has ended."""
        return self.step >= self.signature.total or all(self.diverged)

    def results(self) -> list[dict[str, Any]]:
        """Return the row of each trial, as in `StudyResult.rows`; final trials are tested now."""
        tested: Sequence[dict[str, Any] | None] = [None] * len(self.trials)
        predicted: Sequence[str | None] = [None] * len(self.trials)
        if self.signature.final:
            assert self.test is not None, "final trials need the test images"
            with self.test.rows.decoders() as decoders:
                feed = feed_of(self.test, self.signature, decoders)
                splits = [self.context.datasets[trial.seed].test for trial in self.trials]
                tested, predicted = tested_trials(self.context, feed, _variables(self.states), splits)
        params = jax.tree.map(np.asarray, self.states.params)
        rows = []
        for index, trial in enumerate(self.trials[: self.distinct]):
            history = self.history[index]
            trained = jax.tree.map(lambda leaf, at=index: leaf[at], params)
            # A loss of finite size may hide parameters that are not.
            diverged = self.diverged[index] or not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained))
            best = (
                max(history, key=lambda row: (row["val"], -row["val_loss"], -row["step"]))
                if (history and not self.signature.final and not diverged)
                else None
            )
            settings = dataclasses.asdict(self.context.settings(trial))
            rows.append(
                {
                    "cell": trial.name,
                    **{
                        name: getattr(trial, name)
                        for name in ("stage", "head", "depth", "learning_rate", "seed", "classifier_rate")
                    },
                    "steps": self.signature.total,
                    "settings": settings,
                    "method": self.context.grid.rival(trial.head).method,
                    "metric": self.context.metric,
                    "val": None if best is None else best["values"],
                    "test": None if diverged else tested[index],
                    "predicted": None if diverged else predicted[index],
                    "best_step": None if best is None else best["step"],
                    "seconds": self.seconds,
                    "examples_seen": self.examples_seen,
                    "trainable": sum(leaf.size for leaf in jax.tree.leaves(self.signature.plan.partition(trained)[0])),
                    "history": [{name: value for name, value in row.items() if name != "values"} for row in history],
                    "change": {} if diverged else _change(self.signature.plan, self.initial[index], trained),
                    "diverged": diverged,
                    "error": None,
                    "together": self.distinct,
                    "start": self.signature.start,
                }
            )
        return rows

    def variables(self, index: int) -> dict[str, Any]:
        """Return the variables of one trial from the cut on, as NumPy arrays."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[index], _variables(self.states))

    def close(self) -> None:
        """End the decoding threads."""
        self.decoders.shutdown()


def _variables(states: TrainState) -> dict[str, Any]:
    return {"params": states.params, "batch_stats": states.batch_stats}


def _change(plan: FreezingPlan, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """Return ‖w − w₀‖ / ‖w₀‖ of each pretrained layer group; it is 0 for frozen groups."""
    found = {}
    for group, label in zip(plan.groups, plan.labels, strict=True):
        if label == FROZEN:
            found[group] = 0.0
        if label == PRETRAINED and group in after.get("source", {}):
            old, new = (
                np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree["source"][group])]).astype(np.float64)
                for tree in (before, after)
            )
            found[group] = float(np.linalg.norm(new - old) / max(np.linalg.norm(old), 1e-30))
    return found
