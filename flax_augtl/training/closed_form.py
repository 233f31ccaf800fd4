"""Fit a head in closed form: one pass over the training images, then one "step" that computes the classifier."""

import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import Examples, eval_batches
from flax_augtl.models.augmented import HEAD, AugmentedNetwork
from flax_augtl.models.closed_form import fit_classifier, loss
from flax_augtl.pretrained import Preprocessing
from flax_augtl.runtime import signals
from flax_augtl.training import metrics
from flax_augtl.training.checkpoints import Checkpoints
from flax_augtl.training.experiment import Experiment
from flax_augtl.training.log import RunLog, describe
from flax_augtl.training.loop import evaluate
from flax_augtl.training.progress import Progress
from flax_augtl.training.state import TrainState


@functools.lru_cache(maxsize=8)
def _compiled(network: AugmentedNetwork, preprocessing: Preprocessing) -> Any:
    count = len(network.source.groups)
    return jax.jit(lambda variables, images: network.apply(variables, preprocessing.normalise(images), 0, count))


def penultimate(
    network: AugmentedNetwork,
    preprocessing: Preprocessing,
    variables: Any,
    examples: Examples,
    data: DataConfig,
    *,
    batch_size: int,
) -> np.ndarray:
    """Return what the head reads for each example in its evaluation view, float32 [n, D].

    Args:
      network: the network.
      preprocessing: the evaluation transform of its images.
      variables: the network's variables.
      examples: the examples.
      data: `config.data`.
      batch_size: images per batch.
    """
    features: Any = _compiled(network, preprocessing)  # pyright: ignore[reportArgumentType]  # Modules have a hash.
    found = []
    for batch in eval_batches(
        examples, preprocessing, data, batch_size=batch_size, image_size=preprocessing.image_size
    ):
        signals.raise_if_alone()
        found.append(np.asarray(features(variables, batch["image"]), np.float32))
    return np.concatenate(found)[: len(examples)]


def fit_head(
    experiment: Experiment,
    state: TrainState,
    progress: Progress,
    *,
    log: RunLog | None = None,
    checkpoints: Checkpoints | None = None,
) -> tuple[TrainState, Progress]:
    """Fit the head of a run in closed form, and write its checkpoint, that of step 1.

    Args:
      experiment: what to fit.
      state: the state at the start.
      progress: the progress at the start.
      log: the log of the run, if it has one.
      checkpoints: where to write the checkpoint, if anywhere.

    Returns:
      The state and the progress at the end.

    Raises:
      Interrupted: a signal ended the run; the next start begins again.
    """
    begun, dataset, head = time.monotonic(), experiment.dataset, experiment.network.head
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    how: dict[str, Any] = {"data": experiment.config.data, "batch_size": experiment.config.batch_size}
    features = penultimate(experiment.network, experiment.preprocessing, variables, dataset.train, **how)
    layer = fit_classifier(head.settings, features, dataset.train.labels, head.num_classes)
    params = {**state.params, HEAD: {**state.params[HEAD], "classifier": layer}}
    state = state.replace(step=np.int32(1), params=params)
    progress = dataclasses.replace(progress, step=1, position=1)
    if log:
        values = {"loss": loss(layer, head.settings, features, dataset.train.labels)}
        log.write(1, "train", {**values, "seconds": time.monotonic() - begun})
    if dataset.val is not None:
        fitted = {"params": params, "batch_stats": state.batch_stats}
        values = metrics.summary(evaluate(experiment.network, experiment.preprocessing, fitted, dataset.val, **how))
        progress = dataclasses.replace(
            progress, best_step=1, best_value=values[dataset.metric], best_loss=values["loss"]
        )
        if log:
            log.write(1, "val", values)
            log.say(f"{head.settings.fit}, in closed form  validation: {describe(values)}")
    progress = dataclasses.replace(progress, seconds=progress.seconds + time.monotonic() - begun)
    if checkpoints is not None:
        checkpoints.save(state, progress)
    return state, progress
