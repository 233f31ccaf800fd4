"""The training loop: steps, evaluations and checkpoints in their order."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import Examples, eval_batches, train_batches
from flax_augtl.data.loading.device_dataset import pool_batches
from flax_augtl.data.loading.sampler import stream
from flax_augtl.errors import UserError
from flax_augtl.runtime import signals
from flax_augtl.training import metrics
from flax_augtl.training.checkpoints import Checkpoints
from flax_augtl.training.experiment import Experiment
from flax_augtl.training.freezing import FROZEN
from flax_augtl.training.log import RunLog, describe
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.profile import Profile
from flax_augtl.training.progress import Progress
from flax_augtl.training.replicas import check_replicas
from flax_augtl.training.state import TrainState, create_state
from flax_augtl.training.step import pmapped_eval_step, pmapped_train_step, replicate, split_over_devices
from flax_augtl.workdir import files


class NotFinite(UserError):
    """The loss or the gradient is not a finite number.

    Attributes:
      position: of the batch, among the global batches of the run.
    """

    def __init__(self, message: str, position: int):
        super().__init__(message)
        self.position = position


def evaluate(
    network: Any,
    preprocessing: Any,
    variables: Any,
    examples: Examples,
    data: DataConfig,
    *,
    batch_size: int,
    each: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> dict[str, np.ndarray]:
    """Return the sums of `metrics.evaluation_sums` over all examples, each of them counted once.

    Args:
      network: that is evaluated.
      preprocessing: of its pictures.
      variables: of the network.
      examples: a split.
      data: `config.data`.
      batch_size: over all devices of all processes; it is rounded up to a multiple of their number.
      each: told, for every batch of all processes, the positions in `examples` int [b] and the probabilities float32
        [b, C]; without padding, in any order.
    """
    devices = jax.local_device_count()
    batch_size = math.ceil(batch_size / jax.device_count()) * jax.device_count()
    step = pmapped_eval_step(network, preprocessing)
    # Once, rather than with every batch.
    variables = replicate(variables)

    def sums():
        batches = eval_batches(
            examples, preprocessing, data, batch_size=batch_size, image_size=preprocessing.image_size, **_share()
        )
        for number, batch in enumerate(batches):
            signals.raise_if_alone()
            local = number * len(batch["label"]) + np.arange(len(batch["label"]), dtype=np.int32)
            # Always given, so that evaluations with and without `each` share one compilation.
            place = (local * jax.process_count() + jax.process_index()).astype(np.int32)
            found = step(
                variables,
                split_over_devices(
                    {"image": batch["image"], "label": batch["label"], "mask": batch["mask"], "place": place}, devices
                ),
            )
            places, probabilities = found.pop("place"), found.pop("probabilities")
            if each is not None:
                places = np.asarray(places)
                real = places < len(examples)
                each(places[real], np.asarray(probabilities)[real])
            yield found

    return metrics.add(sums())


def _share() -> dict[str, int]:
    """Which part of every global batch this process reads."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def fit(
    experiment: Experiment,
    state: TrainState,
    progress: Progress,
    *,
    log: RunLog | None = None,
    checkpoints: Checkpoints | None = None,
    profile: epath.PathLike | None = None,
) -> tuple[TrainState, Progress]:
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
      NotFinite: the loss or the gradient is not finite, and `config.on_nan` says stop, or it was so too often; nothing
        of that step is kept.
      Interrupted: a signal ended the run (`interruption`); `checkpoints` has the last step.
    """
    count = progress.not_finite
    try:
        while True:
            try:
                return _fit(experiment, state, progress, log, checkpoints, profile)
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
    log: RunLog | None,
    checkpoints: Checkpoints | None,
    profile: epath.PathLike | None,
) -> tuple[TrainState, Progress]:
    """Train from `progress` on to the end, or to the first step that is not finite."""
    config, total = experiment.config, experiment.total_steps
    devices = jax.local_device_count()
    step_fn = pmapped_train_step(
        experiment.network, experiment.plan, experiment.optimizer, experiment.preprocessing, experiment.step
    )
    # A batch that was passed over makes the data longer than the steps.
    until = progress.position + total - progress.step
    which = {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "position": progress.position,
        "steps": until,
        **_share(),
    }
    if experiment.pool is None:
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
    first, tracing = progress.position, Profile(profile, progress.step, total, log.say if log else print)
    started, earlier = time.monotonic(), progress.seconds

    def seconds():
        return earlier + time.monotonic() - started

    def stopped_early():
        if not 0 < config.early_stopping <= progress.evaluations_since_best:
            return False
        if log:
            count = progress.evaluations_since_best
            log.say(f"Stopped early: {count} evaluation{'s' * (count != 1)} without an improvement.")
        return True

    if progress.evaluation_due:
        # Its checkpoint is not written anew, for there would be a time without any; the next one has the evaluation.
        progress = _validate(experiment, state, dataclasses.replace(progress, evaluation_due=False), log)
        if stopped_early():
            return state, progress
    pending = None
    for batch in tracing.over(batches):
        rate = experiment.rates[progress.step]
        begun = time.monotonic()
        state, scalars = step_fn(state, split_over_devices(batch, devices), rate, pool)
        if log and progress.position == first:
            log.say(f"The training step was compiled in {time.monotonic() - begun:.1f} s.")
        # The step before is looked at while this one runs, so that the device never waits for the host.
        progress = _look_at(pending, progress, experiment, log)
        pending = _Pending(progress.step + 1, progress.position, scalars, float(rate), seconds())
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
        # Nothing is evaluated or kept before it is known to be finite.
        progress = _look_at(pending, progress, experiment, log)
        pending = None
        _check_parameters(state, progress, experiment)
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


def _go_back(
    error: NotFinite, count: int, experiment: Experiment, log: RunLog | None, checkpoints: Checkpoints | None
) -> tuple[TrainState, Progress]:
    """Return the last checkpoint, or the start of the run, with the data going on behind the batch that was not finite.

    The batches between the two are passed over as well: with them the run would come to the same point again.
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
        checkpoints.remove_after(step)  # A damaged one would be in the way of its successor.
    say(
        f"{error}\nGoing back to step {progress.step} and continuing with the next batch. This is restore {count} of at "
        f"most {experiment.config.on_nan_limit} (config.on_nan_limit)."
    )
    if log:
        files.drop_metrics_after(log.workdir, progress.step)
    return state, dataclasses.replace(progress, position=error.position + 1, not_finite=count)


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A step whose scalars the device may still be computing."""

    step: int
    position: int
    scalars: Mapping[str, Any]
    rate: float
    seconds: float


def _look_at(pending: _Pending | None, progress: Progress, experiment: Experiment, log: RunLog | None) -> Progress:
    """Check and show a step that is done, and return the progress with it counted; waits for it if it is not."""
    if pending is None:
        return progress
    config, scalars = experiment.config, dict(pending.scalars)
    norms = scalars.pop("norms")
    values = {name: float(value) for name, value in scalars.items()}
    extra = {"learning_rate": pending.rate, "seconds": pending.seconds}
    if not all(math.isfinite(value) for value in values.values()):
        count = progress.not_finite + 1
        if config.on_nan != "skip" or count > config.on_nan_limit:
            raise NotFinite(_not_finite(pending, values, norms, experiment), pending.position)
        if log:
            log.say(
                f"Step {pending.step}: the loss is {values['loss']}, the norm of the gradient "
                f"{values['gradient_norm']}. This update is skipped, number {count} of at most "
                f"{config.on_nan_limit} (config.on_nan_limit). {_examples_of(pending, experiment)}"
            )
            log.step(pending.step, values["loss"])
            log.write(pending.step, "train", {"skipped": 1, **extra})
        return dataclasses.replace(progress, not_finite=count)
    if log:
        log.step(pending.step, values["loss"])
        if pending.step % config.log_every_steps == 0 or pending.step == experiment.total_steps:
            log.write(pending.step, "train", {**values, **extra})
    return progress


def _check_parameters(state: TrainState, progress: Progress, experiment: Experiment) -> None:
    """Raise NotFinite if the last update left a parameter that is not finite: no later loss would tell before it is kept."""
    groups = {
        **state.params.get("source", {}),
        **{name: tree for name, tree in state.params.items() if name != "source"},
    }
    bad = [
        group
        for group, tree in groups.items()
        if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))
    ]
    if bad:
        rate = float(experiment.rates[progress.step - 1])
        raise NotFinite(
            f"Step {progress.step} of {experiment.total_steps}: parameters of {', '.join(bad)} are no longer "
            f"finite after its update, at learning rate {rate:.4g}. Lower config.learning_rate, set "
            "config.gradient_clip, or let the rate rise slowly with config.schedule.warmup_steps. Nothing of "
            "this step is kept.",
            progress.position - 1,
        )


def _not_finite(
    pending: _Pending, values: Mapping[str, float], norms: Mapping[str, Any], experiment: Experiment
) -> str:
    """Say where the loss or the gradient ceased to be finite, on which examples, and what the layer groups looked like."""
    gradients, parameters = np.asarray(norms["gradient"]), np.asarray(norms["parameter"])
    rows = [
        f"  {group:12} {gradient:12.4g} {parameter:12.4g}"
        for group, label, gradient, parameter in zip(
            experiment.plan.groups, experiment.plan.labels, gradients, parameters, strict=True
        )
        if label != FROZEN
    ]
    return (
        f"Step {pending.step} of {experiment.total_steps}: the loss is {values['loss']}, the norm of the gradient "
        f"{values['gradient_norm']}, at learning rate {pending.rate:.4g} (new layers: "
        f"{pending.rate * experiment.optimizer.new_layer_multiplier:.4g}). Lower config.learning_rate, set "
        "config.gradient_clip, let the rate rise slowly with config.schedule.warmup_steps, or see config.on_nan. "
        f"Nothing of this step is kept.\n{_examples_of(pending, experiment)}\n  {'layer group':12} "
        f"{'gradient':>12} {'parameters':>12}  (norms, before the step)\n" + "\n".join(rows)
    )


def _examples_of(pending: _Pending, experiment: Experiment, limit: int = 16) -> str:
    """Name the examples of a step's batch, over all processes."""
    examples, size = experiment.dataset.train, experiment.config.batch_size
    which, _ = stream(pending.position * size, (pending.position + 1) * size, len(examples), experiment.config.seed)
    names = [examples.ids[index] for index in which]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"Batch {pending.position} holds {', '.join(names[:limit])}{more}."


def _validate(experiment: Experiment, state: TrainState, progress: Progress, log: RunLog | None) -> Progress:
    """Evaluate on the validation split and return the progress with the best evaluation brought up to date."""
    sums = evaluate(
        experiment.network,
        experiment.preprocessing,
        {"params": state.params, "batch_stats": state.batch_stats},
        experiment.dataset.val,
        experiment.config.data,
        batch_size=experiment.config.batch_size,
    )
    values = metrics.summary(sums)
    value = values[experiment.dataset.metric]
    # The loss decides between equal accuracies, which small validation splits often give; then the earlier step.
    better = progress.best_value is None or (value, -values["loss"]) > (progress.best_value, -progress.best_loss)
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
