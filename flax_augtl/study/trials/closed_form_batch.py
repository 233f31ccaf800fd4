"""Trials whose heads are fitted in closed form on kept activations, each with its own data."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from flax_augtl.features.views import EVALUATION
from flax_augtl.models.augmented import HEAD
from flax_augtl.models.closed_form import fit_classifier, loss
from flax_augtl.study.trials.trial_batch import TrialBatch
from flax_augtl.training.pmapped import replicate
from flax_augtl.training.step_inputs import KeptFeatures

CHUNK = 64


class ClosedFormBatch(TrialBatch):
    """Some trials of one step signature. Whatever their length, they are finished after one fit."""

    @property
    def examples_seen(self) -> int:
        """The number of training examples of a trial: each is seen once."""
        return len(self._examples[0][1])

    def warm_up(self) -> float:
        """Compile the evaluation; return the seconds that this took."""
        begun = time.monotonic()
        if not self.signature.final:
            self.evaluate(replicate(jax.tree.map(np.array, self.states)))
        return time.monotonic() - begun

    def advance(self, pause: Callable[[], bool] = lambda: False) -> None:
        """Fit the heads, and evaluate."""
        begun, layers, losses = time.monotonic(), [], []
        for trial, (ids, labels) in zip(self.trials[: self.distinct], self._examples, strict=False):
            settings, features = self.context.settings(trial), self._features(ids)
            layers.append(fit_classifier(settings, features, labels, len(self.context.class_names)))
            losses.append(loss(layers[-1], settings, features, labels))
        more = len(self.trials) - self.distinct
        layers, losses = layers + layers[-1:] * more, losses + losses[-1:] * more
        states = jax.tree.map(np.asarray, self.states)
        head = {**states.params[HEAD], "classifier": jax.tree.map(lambda *each: np.stack(each), *layers)}
        self.step = self.signature.total
        states = states.replace(step=np.full_like(states.step, self.step), params={**states.params, HEAD: head})
        self.states = replicate(states)
        self._record(self.states, np.asarray(losses), begun)

    def _features(self, ids: tuple[str, ...]) -> np.ndarray:
        """Return what the head reads for examples in their evaluation view, float32 [n, D]."""
        activations, start = self.feed.activations, self.signature.start
        network: Any = self.signature.network
        rows, top = activations.rows.of(ids, EVALUATION), len(network.source.groups)
        kept = [
            activations.gather(network, start, np.resize(part, CHUNK), self.decoders)
            for part in np.split(rows, range(CHUNK, len(rows), CHUNK))
        ]
        if start < top:
            variables = self.context.variables(self.trials[0], start)

            @jax.jit
            def run(inputs: Any) -> Any:
                x = KeptFeatures(start).read({"inputs": inputs}, None, self.context.preprocessing)
                return network.apply(variables, x, start, top)

            kept = [run(part) for part in kept]
        return np.concatenate([np.asarray(part, np.float32) for part in kept])[: len(rows)]
