"""The training loop: steps, evaluations and checkpoints."""

import dataclasses
import math
import time
from typing import Any

import jax
from etils import epath

from flax_augtl.data import train_batches
from flax_augtl.data.loading.device_dataset import pool_batches
from flax_augtl.runtime import signals
from flax_augtl.training import metrics
from flax_augtl.training.checkpoints import Checkpoints
from flax_augtl.training.compiled_steps import pmapped_train_step
from flax_augtl.training.evaluation_loop import evaluate, share
from flax_augtl.training.experiment import Experiment
from flax_augtl.training.log import RunLog, describe
from flax_augtl.training.memory import memory_of_step
from flax_augtl.training.not_finite import (
    NotFinite,
    PendingStep,
    batch_examples,
    check_parameters,
    not_finite_message,
)
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.pmapped import CompiledStep, PmappedStep, replicate, split_over_devices
from flax_augtl.training.profile import Profile
from flax_augtl.training.progress import Progress
from flax_augtl.training.replicas import check_replicas
from flax_augtl.training.state import TrainState, create_state
from flax_augtl.workdir import files


def fit(
    experiment: Experiment,
    state: TrainState,
    progress: Progress,
    *,
    log: RunLog | None = None,
    checkpoints: Checkpoints | None = None,
    profile: epath.PathLike | None = None,
) -> tuple[TrainState, Progress]:
    """Train from `progress` to the end of the run.

    Args:
      experiment: what to train and how.
      state: the state at `progress`; its buffers are donated to the first step.
      progress: the progress so far.
      log: the log of the run, if it has one.
      checkpoints: where to write checkpoints, if anywhere.
      profile: a folder for a trace of some steps; None for no trace.

    Returns:
      The state and the progress at the end.

    Raises:
      NotFinite: the loss or the gradient is not finite, and `config.on_nan` is stop or its limit is reached. Nothing of
        that step is kept.
      Interrupted: a signal ended the run (`runtime.signals`); `checkpoints` has the last step.
    """
    count = progress.not_finite
    try:
        while True:
            try:
                return _fit(experiment, state, progress, log=log, checkpoints=checkpoints, profile=profile)
            except NotFinite as error:
                count += 1
                if experiment.config.on_nan != "restore" or count > experiment.config.on_nan_limit:
                    raise
                state, progress = _go_back(error, count, experiment, log, checkpoints)
    finally:
        signals.defer_no_more()


def _fit(
    experiment: Experiment,
    state: TrainState,
    progress: Progress,
    *,
    log: RunLog | None,
    checkpoints: Checkpoints | None,
    profile: epath.PathLike | None,
) -> tuple[TrainState, Progress]:
    """Train from `progress` to the end of the run, or to the first step that is not finite."""
    config, total = experiment.config, experiment.total_steps
    devices = jax.local_device_count()
    step = pmapped_train_step(
        experiment.network, experiment.plan, experiment.optimizer, experiment.preprocessing, experiment.step
    )
    compiled: CompiledStep | None = None
    # Batches that were skipped come on top of the steps.
    until = progress.position + total - progress.step
    which = {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "position": progress.position,
        "steps": until,
        **share(),
    }
    if (kept := experiment.kept_split("train")) is not None:
        batches, pool = kept.training_batches(experiment.dataset.train, config.data, **which), kept.pool
    elif experiment.pool is None:
        batches = train_batches(
            experiment.dataset.train,
            experiment.preprocessing,
            config.data,
            image_size=experiment.preprocessing.image_size,
            **which,
        )
        pool = None
    else:
        batches = pool_batches(experiment.pool, experiment.dataset.train, config.data, **which)
        pool = replicate({"images": experiment.pool.images, "sizes": experiment.pool.sizes})
    tracing = Profile(profile, progress.step, total, log.say if log else print)
    started, earlier = time.monotonic(), progress.seconds

    def seconds() -> float:
        return earlier + time.monotonic() - started

    def stopped_early() -> bool:
        if not 0 < config.early_stopping <= progress.evaluations_since_best:
            return False
        if log:
            count = progress.evaluations_since_best
            log.say(f"Stopped early: {count} evaluation{'s' * (count != 1)} without an improvement.")
        return True

    if progress.evaluation_due:
        # Rewriting the checkpoint would leave a moment without any; the next one records the evaluation.
        progress = _validate(experiment, state, dataclasses.replace(progress, evaluation_due=False), log)
        if stopped_early():
            return state, progress
    pending = None
    for batch in tracing.over(batches):
        rate = experiment.rates[progress.step]
        arguments = state, split_over_devices(batch, devices), rate, pool
        if compiled is None:
            compiled = _compile(step, arguments, log)
        state, scalars = compiled(*arguments)
        # Check the previous step while this one runs, so that the device never waits for the host.
        progress = _look_at(pending, progress, experiment, log)
        pending = PendingStep(progress.step + 1, progress.position, scalars, float(rate), seconds())
        progress = dataclasses.replace(progress, step=progress.step + 1, position=progress.position + 1)
        if config.check_replicas_every and progress.step % config.check_replicas_every == 0:
            check_replicas(state, progress.step)
        signals.defer()
        interrupted = signals.requested()
        last = progress.step == total
        evaluation = last or progress.step % experiment.evaluate_every == 0
        if not (evaluation or interrupted) and (
            not experiment.checkpoint_every or progress.step % experiment.checkpoint_every
        ):
            continue
        # Evaluate and save finite states only.
        progress = _look_at(pending, progress, experiment, log)
        pending = None
        check_parameters(state, progress, experiment)
        if evaluation and experiment.dataset.val is not None:
            try:
                progress = _validate(experiment, state, progress, log)
            except signals.Interrupted:
                interrupted, progress = True, dataclasses.replace(progress, evaluation_due=True)
        progress = dataclasses.replace(progress, seconds=seconds())
        if checkpoints is not None:
            checkpoints.save(state, progress)
        if interrupted:
            if checkpoints is not None:
                checkpoints.wait()
                if log:
                    log.say(f"Interrupted after step {progress.step} of {total}; its checkpoint is written.")
            raise signals.interrupted()
        if stopped_early():
            break
    return state, progress


def _compile(step: PmappedStep, arguments: tuple[Any, ...], log: RunLog | None) -> CompiledStep:
    """Compile the training step, and log how long that took and what memory the step will need."""
    begun = time.monotonic()
    compiled = step.compiled(*arguments)
    if log:
        log.say(f"The training step was compiled in {time.monotonic() - begun:.1f} s.")
        if memory := memory_of_step(compiled, *arguments):
            log.say(str(memory))
    return compiled


def _go_back(
    error: NotFinite, count: int, experiment: Experiment, log: RunLog | None, checkpoints: Checkpoints | None
) -> tuple[TrainState, Progress]:
    """Return the last checkpoint, or the start of the run, with the position after the batch that was not finite.

    The batches in between are skipped as well, because they would lead to the same point again.
    """
    state = create_state(
        experiment.variables,
        create_optimizer(experiment.optimizer, experiment.plan),
        experiment.plan,
        experiment.config.seed,
    )
    progress, say = Progress(), log.say if log else lambda text: None
    if checkpoints is not None:
        checkpoints.wait()
        if (step := checkpoints.newest_sound(say)) is not None:
            state, progress = checkpoints.restore(state, step)
        checkpoints.remove_after(step)  # Orbax would not overwrite a damaged one.
    say(
        f"{error}\nGoing back to step {progress.step} and continuing with the next batch. This is restore {count} of at "
        f"most {experiment.config.on_nan_limit} (config.on_nan_limit)."
    )
    if log:
        files.drop_metrics_after(log.workdir, progress.step)
    return state, dataclasses.replace(progress, position=error.position + 1, not_finite=count)


def _look_at(pending: PendingStep | None, progress: Progress, experiment: Experiment, log: RunLog | None) -> Progress:
    """Wait for a step, check and log it, and return the progress with it."""
    if pending is None:
        return progress
    config, scalars = experiment.config, dict(pending.scalars)
    norms = scalars.pop("norms")
    values = {name: float(value) for name, value in scalars.items()}
    extra = {"learning_rate": pending.rate, "seconds": pending.seconds}
    if not all(math.isfinite(value) for value in values.values()):
        count = progress.not_finite + 1
        if config.on_nan != "skip" or count > config.on_nan_limit:
            raise NotFinite(not_finite_message(pending, values, norms, experiment), pending.position)
        if log:
            log.say(
                f"Step {pending.step}: the loss is {values['loss']}, the norm of the gradient "
                f"{values['gradient_norm']}. This update is skipped, number {count} of at most "
                f"{config.on_nan_limit} (config.on_nan_limit). {batch_examples(pending, experiment)}"
            )
            log.step(pending.step, values["loss"])
            log.write(pending.step, "train", {"skipped": 1, **extra})
        return dataclasses.replace(progress, not_finite=count)
    if log:
        log.step(pending.step, values["loss"])
        if pending.step % config.log_every_steps == 0 or pending.step == experiment.total_steps:
            log.write(pending.step, "train", {**values, **extra})
    return progress


def _validate(experiment: Experiment, state: TrainState, progress: Progress, log: RunLog | None) -> Progress:
    """Evaluate on the validation split, and return the progress with the best evaluation up to date."""
    assert experiment.dataset.val is not None, "only runs with a validation split are validated"
    sums = evaluate(
        experiment.network,
        experiment.preprocessing,
        {"params": state.params, "batch_stats": state.batch_stats},
        experiment.dataset.val,
        experiment.config.data,
        batch_size=experiment.config.batch_size,
        kept=experiment.kept_split("val"),
    )
    values = metrics.summary(sums)
    value = values[experiment.dataset.metric]
    # Small validation splits often give equal accuracies: then the lower loss decides, then the earlier step.
    if progress.best_value is None or progress.best_loss is None:
        better = True
    else:
        better = (value, -values["loss"]) > (progress.best_value, -progress.best_loss)
    tie = f" (as good as step {progress.best_step}; the lower loss decides)" if value == progress.best_value else ""
    if better:
        progress = dataclasses.replace(
            progress, best_step=progress.step, best_value=value, best_loss=values["loss"], evaluations_since_best=0
        )
    else:
        progress = dataclasses.replace(progress, evaluations_since_best=progress.evaluations_since_best + 1)
    if log:
        log.write(progress.step, "val", values)
        log.say(
            f"step {progress.step}/{experiment.total_steps}  validation: {describe(values)}{f'  best{tie}' * better}"
        )
    return progress
