"""The training loop: steps, evaluations and checkpoints in their order."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from flax_augtl.data import Examples, eval_batches, train_batches
from flax_augtl.data.pool import pool_batches
from flax_augtl.training import metrics
from flax_augtl.training.checkpoints import Checkpoints, Progress
from flax_augtl.training.experiment import Experiment
from flax_augtl.training.log import RunLog, describe
from flax_augtl.training.profile import Profile
from flax_augtl.training.replicas import check_replicas
from flax_augtl.training.state import TrainState
from flax_augtl.training.step import pmapped_eval_step, pmapped_train_step, replicate, split_over_devices


class NotFinite(ValueError):
    """The loss or the gradient is not a finite number."""


def evaluate(network: Any, preprocessing: Any, variables: Any, examples: Examples, data: Mapping[str, Any], *,
             batch_size: int) -> dict[str, np.ndarray]:
    """Return the sums of `metrics.evaluation_sums` over all examples, each of them counted once.

    Args:
      network: that is evaluated.
      preprocessing: of its pictures.
      variables: of the network.
      examples: a split.
      data: `config.data`.
      batch_size: over all devices of all processes; it is rounded up to a multiple of their number.
    """
    devices = jax.local_device_count()
    batch_size = math.ceil(batch_size / jax.device_count()) * jax.device_count()
    step = pmapped_eval_step(network, preprocessing)
    # Once, rather than with every batch.
    variables = replicate(variables)
    return metrics.add(
        step(variables, split_over_devices({name: batch[name] for name in ("image", "label", "mask")}, devices))
        for batch in eval_batches(examples, preprocessing, data, batch_size=batch_size,
                                  image_size=preprocessing.image_size, **_share()))


def _share() -> dict[str, int]:
    """Which part of every global batch this process reads."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def fit(experiment: Experiment, state: TrainState, progress: Progress, *, log: RunLog | None = None,
        checkpoints: Checkpoints | None = None, profile: epath.PathLike | None = None) -> tuple[TrainState, Progress]:
    """Train from `progress` on to the end of the run.

    Args:
      experiment: what to train and how.
      state: at `progress`; its buffers are used up.
      progress: how far the run is.
      log: where it is seen.
      checkpoints: where it is kept.
      profile: a folder for a trace of some steps; None for none.

    Returns:
      The state and the progress at the end.

    Raises:
      NotFinite: the loss or the gradient is not finite; nothing of that step is kept.
    """
    config, total = experiment.config, experiment.total_steps
    devices = jax.local_device_count()
    step_fn = pmapped_train_step(experiment.network, experiment.plan, experiment.optimizer, experiment.preprocessing,
                                 experiment.step)
    stream = {"batch_size": config.batch_size, "seed": config.seed, "position": progress.position, "steps": total,
              **_share()}
    if experiment.pool is None:
        batches = train_batches(experiment.dataset.train, experiment.preprocessing, config.data,
                                image_size=experiment.preprocessing.image_size, **stream)
        pool = None
    else:
        batches = pool_batches(experiment.pool, experiment.dataset.train, config.data, **stream)
        pool = replicate({"images": experiment.pool.images, "sizes": experiment.pool.sizes})
    first, tracing = progress.position, Profile(profile, progress.step, total)
    started, earlier = time.monotonic(), progress.seconds

    def seconds():
        return earlier + time.monotonic() - started

    pending = None
    for batch in tracing.over(batches):
        rate = experiment.rates[progress.step]
        begun = time.monotonic()
        state, scalars = step_fn(state, split_over_devices(batch, devices), rate, pool)
        if log and progress.position == first:
            log.say(f"The training step was compiled in {time.monotonic() - begun:.1f} s.")
        # The step before is looked at while this one runs, so that the device never waits for the host.
        _look_at(pending, experiment, log)
        progress = dataclasses.replace(progress, step=progress.step + 1, position=progress.position + 1)
        if config.check_replicas_every and progress.step % config.check_replicas_every == 0:
            check_replicas(state, progress.step)
        pending = _Pending(progress.step, scalars, float(rate), batch["id"], seconds())
        last = progress.step == total
        evaluation = last or progress.step % experiment.evaluate_every == 0
        if not evaluation and (not experiment.checkpoint_every or progress.step % experiment.checkpoint_every):
            continue
        # Nothing is evaluated or kept before it is known to be finite.
        _look_at(pending, experiment, log)
        pending = None
        if evaluation and experiment.dataset.val is not None:
            progress = _validate(experiment, state, progress, log)
        progress = dataclasses.replace(progress, seconds=seconds())
        if checkpoints is not None:
            checkpoints.save(state, progress)
        if 0 < config.early_stopping <= progress.evaluations_since_best:
            if log:
                log.say(f"Stopped early: {progress.evaluations_since_best} evaluations without a better one.")
            break
    return state, progress


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A step whose scalars the device may still be computing."""

    step: int
    scalars: Mapping[str, Any]
    rate: float
    ids: np.ndarray
    seconds: float


def _look_at(pending: _Pending | None, experiment: Experiment, log: RunLog | None) -> None:
    """Check and show a step that is done; waits for it if it is not."""
    if pending is None:
        return
    values = {name: float(value) for name, value in pending.scalars.items()}
    if not all(math.isfinite(value) for value in values.values()):
        raise NotFinite(
            f"Step {pending.step} of {experiment.total_steps}: the loss is {values['loss']}, the norm of the gradient "
            f"{values['gradient_norm']}, at learning rate {pending.rate:.4g} (new layers: "
            f"{pending.rate * experiment.optimizer.new_layer_multiplier:.4g}). Lower config.learning_rate, set "
            "config.gradient_clip, or let it rise slowly with config.schedule.warmup_steps. The last checkpoint is from "
            "before this step.")
    if log:
        log.step(pending.step, values["loss"])
        if pending.step % experiment.config.log_every_steps == 0 or pending.step == experiment.total_steps:
            log.write(pending.step, "train", {**values, "learning_rate": pending.rate, "seconds": pending.seconds})


def _validate(experiment: Experiment, state: TrainState, progress: Progress, log: RunLog | None) -> Progress:
    """Evaluate on the validation split and return the progress with the best evaluation brought up to date."""
    sums = evaluate(experiment.network, experiment.preprocessing, {"params": state.params, "batch_stats": state.batch_stats},
                    experiment.dataset.val, experiment.config.data, batch_size=experiment.config.batch_size)
    values = metrics.summary(sums)
    value = values[experiment.dataset.metric]
    # The loss decides between equal accuracies, which small validation splits often give; then the earlier step.
    better = progress.best_value is None or (value, -values["loss"]) > (progress.best_value, -progress.best_loss)
    if better:
        progress = dataclasses.replace(progress, best_step=progress.step, best_value=value, best_loss=values["loss"],
                                       evaluations_since_best=0)
    else:
        progress = dataclasses.replace(progress, evaluations_since_best=progress.evaluations_since_best + 1)
    if log:
        log.write(progress.step, "val", values)
        log.say(f"step {progress.step}/{experiment.total_steps}  validation: {describe(values)}{'  best' * better}")
    return progress
