"""`--mode=train --dry_run`: what a training will do and what it will cost, by timing a few steps; nothing is written."""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import jax
from etils import epath

from flax_augtl.config.convert import typed
from flax_augtl.data import Dataset, Examples, eval_batches, train_batches
from flax_augtl.data.loading.device_dataset import pool_batches
from flax_augtl.errors import UserError
from flax_augtl.features.plan import FeaturePlan, plan_features
from flax_augtl.run_data import renamed_as_in, spelling_in
from flax_augtl.runtime.paths import absolute
from flax_augtl.runtime.text import columns, duration
from flax_augtl.training.checkpoints import open_checkpoints
from flax_augtl.training.compiled_steps import pmapped_eval_step, pmapped_train_step
from flax_augtl.training.experiment import Experiment, lengths_of, prepare
from flax_augtl.training.features_decision import decision_in, existing_folder
from flax_augtl.training.log import RunLog
from flax_augtl.training.memory import StepMemory, explain_out_of_memory, memory_of_step
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.pmapped import replicate, split_over_devices
from flax_augtl.training.progress import Progress
from flax_augtl.training.start_log import log_start
from flax_augtl.training.state import create_state
from flax_augtl.trust.trained import familiarity_examples
from flax_augtl.workdir import files
from flax_augtl.workdir.resume import as_begun, check_data, check_same, is_same

# Steps, and batches of images, that are timed after a first one; fewer if they take longer than `_SECONDS`.
_TIMED = 5
_SECONDS = 4.0
_NOTHING = FeaturePlan()


@dataclasses.dataclass(frozen=True)
class Timing:
    """What was timed, in seconds.

    Attributes:
      compilation: of the step and of the evaluation.
      step: of the devices, for one batch.
      batch: to prepare the images of one batch, with nothing beside it.
      evaluated: of the devices, for an image of an evaluation.
      prepared: to prepare an image for an evaluation.
      memory: of the step; None if the compiler does not tell.
    """

    compilation: float
    step: float
    batch: float
    evaluated: float
    prepared: float
    memory: StepMemory | None

    @property
    def whole_step(self) -> float:
        """Seconds of a step with its images."""
        return _together(self.step, self.batch)

    @property
    def image(self) -> float:
        """Seconds of an image in an evaluation."""
        return _together(self.evaluated, self.prepared)


def _together(device: float, host: float) -> float:
    """Return the seconds of both: a CPU does both on the same cores, other devices compute while the host prepares."""
    return device + host if jax.default_backend() == "cpu" else max(device, host)


def plan(
    config: Any,
    workdir: os.PathLike | str,
    *,
    dataset: Dataset | None = None,
    extend: bool = False,
    say: Callable[[str], Any] = print,
) -> None:
    """Say what `train` will do with the same arguments, and what it will cost.

    Args:
      config: see configs/common.py.
      workdir: of the run, which may have begun.
      dataset: see `train`.
      extend: see `train`.
      say: called with every line.

    Raises:
      UserError: what `train` would raise before its first step; or several processes plan together.
    """
    if jax.process_count() > 1:
        raise UserError("--dry_run plans in one process: start it without --coordinator.")
    wanted, workdir = typed(config), absolute(workdir)
    check_same(wanted, workdir, extend)
    if (workdir / files.RESULT).exists() and (not extend or is_same(wanted, workdir)):
        say(f"{workdir} holds this run, and it is finished.")
        return
    with explain_out_of_memory(wanted):
        experiment = prepare(
            as_begun(wanted, workdir),
            None if dataset is None else renamed_as_in(workdir, dataset),
            spelling_in(workdir, wanted),
        )
        check_data(experiment.dataset.fingerprint, workdir)
        progress, features = _progress(workdir), _features(experiment, workdir)
        # The note alone: what is timed below are steps on images.
        noted = dataclasses.replace(experiment, features=FeaturePlan(note=features.note))
        log_start(cast(RunLog, _Say(say)), noted, progress)
        for line in lines(experiment, timed(experiment), progress.step, features):
            say(line)
    say(f"\nA dry run: {workdir} was not changed.")


class _Say:
    """Stands for a log that only says lines."""

    def __init__(self, say: Callable[[str], Any]):
        self.say = say


def _progress(workdir: epath.Path) -> Progress:
    """Return how far the run in a directory is."""
    if not (workdir / files.CHECKPOINTS).exists():
        return Progress()
    with open_checkpoints(workdir / files.CHECKPOINTS, read_only=True) as checkpoints:
        step = checkpoints.newest_sound(lambda text: None)
        return Progress() if step is None else checkpoints.progress(step)


def _features(experiment: Experiment, workdir: epath.Path) -> FeaturePlan:
    """Return what the run keeps of its frozen layers."""
    return plan_features(
        experiment.config,
        experiment.network,
        experiment.preprocessing,
        experiment.plan.depth,
        lengths_of(experiment.dataset, experiment.total_steps, experiment.evaluate_every),
        decided=decision_in(workdir),
        folder=existing_folder(workdir),
    )


def lines(experiment: Experiment, timing: Timing, done: int = 0, features: FeaturePlan = _NOTHING) -> list[str]:
    """Return the plan as lines of text.

    Args:
      experiment: the run.
      timing: of its step on images.
      done: steps that are done.
      features: what the run keeps of its frozen layers.
    """
    config, dataset = experiment.config, experiment.dataset
    left = experiment.total_steps - done
    validations = 0
    if dataset.val is not None:
        every = experiment.evaluate_every
        validations = math.ceil(experiment.total_steps / every) - done // every
    epochs = experiment.total_steps * config.batch_size / len(dataset.train)
    validated = validations * len(dataset.val or ())
    end = _images_at_the_end(experiment)
    costs = {
        "compilation": timing.compilation,
        f"{left} step{'s' * (left != 1)}": left * timing.whole_step,
        f"{validations} evaluation{'s' * (validations != 1)} of {len(dataset.val or ())} validation images": (
            validated * timing.image
        ),
        f"the end: {', '.join(end)}": sum(end.values()) * timing.image,
    }
    found = [
        f"\nPlan: {experiment.total_steps} steps of {config.batch_size} images ({epochs:.3g} epochs of "
        f"{len(dataset.train)} images){f', of which {done} are done' if done else ''}; frozen: {config.freeze}.",
        *([str(timing.memory)] if timing.memory else []),
        f"A step: {_seconds(timing.whole_step)} ({_seconds(timing.step)} on the devices, {_seconds(timing.batch)} to "
        f"prepare its images), {config.batch_size / timing.whole_step:.0f} images/s.",
        f"An evaluation: {1 / timing.image:.0f} images/s.",
        "Time on this machine, as it is now:",
        columns([(f"  {name}", duration(seconds)) for name, seconds in costs.items()], align="<>"),
        f"  In all about {duration(sum(costs.values()))}, without checkpoints and the reading of the data.",
    ]
    if features.keeps:
        # The frozen layers are most of a forward pass; what a run has done already does not count.
        saved = timing.image * (features.images - features.rows) * left / max(experiment.total_steps, 1)
        rest = max(sum(costs.values()) - saved, timing.compilation)
        found.append(f"  Kept features save about {duration(saved)} of it, which leaves {duration(rest)}.")
    return found


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.1f} ms"


def _images_at_the_end(experiment: Experiment) -> dict[str, int]:
    """Return what is computed after the last step, with the number of images that the network sees for it."""
    config, dataset = experiment.config, experiment.dataset
    found = {"test": len(dataset.test)}
    if dataset.val is not None:
        found["validation"] = len(dataset.val)
    if config.familiarity and dataset.val is not None:
        found["familiarity"] = len(familiarity_examples(dataset.train)) + len(dataset.val)
    if config.report:
        found["report"] = len(dataset.test)
    return found


def timed(experiment: Experiment) -> Timing:
    """Compile and time a few steps and a few batches of an evaluation; the initial variables stay as they are."""
    devices, config = jax.local_device_count(), experiment.config
    begun = time.perf_counter()
    state = create_state(
        experiment.variables, create_optimizer(experiment.optimizer, experiment.plan), experiment.plan, config.seed
    )
    step = pmapped_train_step(
        experiment.network, experiment.plan, experiment.optimizer, experiment.preprocessing, experiment.step
    )
    which = {"batch_size": config.batch_size, "seed": config.seed, "steps": _TIMED + 2}
    pool = None
    if experiment.pool is None:
        batches: Iterable[Any] = train_batches(
            experiment.dataset.train,
            experiment.preprocessing,
            config.data,
            image_size=experiment.preprocessing.image_size,
            **which,
        )
    else:
        batches = pool_batches(experiment.pool, experiment.dataset.train, config.data, **which)
        pool = replicate({"images": experiment.pool.images, "sizes": experiment.pool.sizes})
    seconds_a_batch, batch = _loading(batches)
    rate, split = experiment.rates[0], split_over_devices(batch, devices)
    begun = time.perf_counter()
    compiled = step.compiled(state, split, rate, pool)
    compilation = time.perf_counter() - begun
    memory = memory_of_step(compiled, state, split, rate, pool)

    def train() -> None:
        nonlocal state
        state, scalars = compiled(state, split, rate, pool)
        jax.block_until_ready(scalars)

    seconds_a_step = _least(train)
    examples = experiment.dataset.val if experiment.dataset.val is not None else experiment.dataset.test
    evaluated, prepared, more = _evaluation(experiment, examples)
    return Timing(compilation + more, seconds_a_step, seconds_a_batch, evaluated, prepared, memory)


def _evaluation(experiment: Experiment, examples: Examples) -> tuple[float, float, float]:
    """Return the seconds of the devices for an image, those to prepare it, and those of the compilation."""
    devices, config = jax.local_device_count(), experiment.config
    size = math.ceil(config.batch_size / devices) * devices
    some = examples.take(range(min(len(examples), (_TIMED + 1) * size)))
    prepared, batch = _loading(
        eval_batches(
            some,
            experiment.preprocessing,
            config.data,
            batch_size=size,
            image_size=experiment.preprocessing.image_size,
        )
    )
    place = jax.numpy.arange(size, dtype="int32")
    arguments = (
        replicate(experiment.variables),
        split_over_devices({**{name: batch[name] for name in ("image", "label", "mask")}, "place": place}, devices),
        None,
    )
    begun = time.perf_counter()
    compiled = pmapped_eval_step(experiment.network, experiment.preprocessing).compiled(*arguments)
    compilation = time.perf_counter() - begun
    seconds = _least(lambda: jax.block_until_ready(compiled(*arguments)))
    return seconds / size, prepared / size, compilation


def _loading(batches: Iterable[Any]) -> tuple[float, Any]:
    """Return the seconds to prepare a batch, and one of them; the threads have started with the first one."""
    begun, count, iterator = time.perf_counter(), 0, iter(batches)
    batch = next(iterator)  # No split is empty.
    for count in range(1, _TIMED + 1):
        seconds = time.perf_counter() - begun
        if seconds > _SECONDS or (batch_after := next(iterator, None)) is None:
            return seconds / count, batch
        batch = batch_after
    return (time.perf_counter() - begun) / (count + 1), batch


def _least(act: Callable[[], Any]) -> float:
    """Return the least seconds of something that is done a few times, after a first time."""
    act()
    found: list[float] = []
    while len(found) < _TIMED and sum(found) < _SECONDS:
        begun = time.perf_counter()
        act()
        found.append(time.perf_counter() - begun)
    return min(found)
