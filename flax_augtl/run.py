"""Train a configuration into a run directory, or resume a run."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict

from flax_augtl.config.convert import to_config_dict, typed
from flax_augtl.config.schema import Config
from flax_augtl.data import Dataset
from flax_augtl.errors import UserError
from flax_augtl.loaded_run import Run, load_run
from flax_augtl.run_data import renamed_as_in, spelling_in
from flax_augtl.runtime import determinism, distributed
from flax_augtl.runtime.paths import absolute
from flax_augtl.runtime.text import for_terminal
from flax_augtl.training import closed_form
from flax_augtl.training import result as run_result
from flax_augtl.training.checkpoints import Checkpoints, open_checkpoints
from flax_augtl.training.experiment import Experiment, prepare
from flax_augtl.training.features_decision import decision_in, existing_folder, write_decision
from flax_augtl.training.kept_features import folder_of, make_features, remove_files
from flax_augtl.training.log import RunLog
from flax_augtl.training.loop import fit
from flax_augtl.training.memory import explain_out_of_memory, most_in_use
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.progress import Progress
from flax_augtl.training.start_log import log_start
from flax_augtl.training.state import TrainState, create_state
from flax_augtl.trust.finish import finish
from flax_augtl.workdir import files, lock
from flax_augtl.workdir.resume import as_begun, check_data, check_processes, check_same, is_same

__all__ = ["Run", "load_run", "train"]


def train(
    config: ConfigDict,
    workdir: os.PathLike | str,
    *,
    dataset: Dataset | None = None,
    extend: bool = False,
    quiet: bool = False,
    profile: bool = False,
) -> Run:
    """Train a configuration, or resume a run that an earlier call started.

    If several processes train together, each calls this with the same arguments. They share the workdir and the data.

    Args:
      config: see configs/common.py.
      workdir: the run directory; it is created if it does not exist.
      dataset: replaces the dataset that `config.data` names; see `flax_augtl.data.dataset_from_arrays` and
        `dataset_from_files`.
      extend: continue a run whose configuration differs in lengths and schedule only.
      quiet: print nothing.
      profile: write a trace of some steps into `workdir`/profile, for TensorBoard or xprof.

    Returns:
      The run with the weights that are best by validation; with the last weights if there is no validation split.

    Raises:
      UserError: the configuration or the data are wrong, `workdir` holds another run, or a device has too little
        memory (`training.memory.OutOfMemory`).
    """
    wanted = typed(config)
    with explain_out_of_memory(wanted):
        return _train(wanted, absolute(workdir), dataset, extend=extend, quiet=quiet, profile=profile)


def _train(
    config: Config, workdir: epath.Path, dataset: Dataset | None, *, extend: bool, quiet: bool, profile: bool
) -> Run:
    if config.deterministic:
        determinism.start(workdir)
    check_processes(config, extend)
    if distributed.first_decides(lambda: _is_finished(config, workdir, dataset, extend)):
        if not quiet:
            print(
                for_terminal(
                    f"{workdir} holds this run, and it is finished. To train it longer, raise config.epochs or "
                    "config.steps and add --extend."
                )
            )
        return load_run(workdir)
    experiment = _prepared(distributed.together(lambda: as_begun(config, workdir)), workdir, dataset)

    def say(text: str) -> None:
        if not quiet and distributed.is_first():
            print(for_terminal(text), file=sys.stderr)

    with contextlib.ExitStack() as stack:
        _lock(stack, experiment, workdir, extend, say)
        run = _fitted(_resumed(stack, experiment, workdir, extend, say), experiment, workdir, quiet, profile)
    distributed.wait()  # Callers in other processes may read what the first process wrote.
    return run


def _is_finished(config: Config, workdir: epath.Path, dataset: Dataset | None, extend: bool) -> bool:
    """Tell whether the directory has the result of this run.

    Raises:
      UserError: it holds another run, or another program trains in it.
    """
    lock.check(workdir)
    files.check_links(workdir)
    check_same(config, workdir, extend)
    # Users may repeat the command that extended the run.
    finished = (workdir / files.RESULT).exists() and (not extend or is_same(config, workdir))
    if finished and dataset is not None:
        check_data(renamed_as_in(workdir, dataset).fingerprint, workdir)
    return finished


def _prepared(config: Config, workdir: epath.Path, dataset: Dataset | None) -> Experiment:
    """Load the data and the weights, alike in all processes; nothing is written."""
    decided = distributed.first_decides(lambda: decision_in(workdir))
    experiment = distributed.together(
        lambda: prepare(
            config,
            None if dataset is None else renamed_as_in(workdir, dataset),
            spelling_in(workdir, config),
            keep_features=True,
            decided=decided,
            folder=existing_folder(workdir),
        )
    )
    distributed.require_equal(
        experiment.dataset.fingerprint,
        "The processes see different data (images, labels, images "
        "that cannot be read, or splits differ): give each host the same files.",
    )
    distributed.require_equal(
        distributed.digest(experiment.variables),
        "The processes start from different weights: give each host the same config.weights.",
    )
    distributed.first_decides(lambda: check_data(experiment.dataset.fingerprint, workdir))
    return experiment


def _lock(
    stack: contextlib.ExitStack, experiment: Experiment, workdir: epath.Path, extend: bool, say: Callable[[str], None]
) -> None:
    """Create the directory, and lock it in the first process, for all processes of the run."""
    distributed.first_decides(lambda: str(files.prepare(workdir)))
    distributed.require_shared(workdir)

    def take() -> None:
        if distributed.is_first():
            stack.enter_context(lock.lock(workdir, say))
            # Another program may have written here while this one read the data.
            check_same(experiment.config, workdir, extend)
            check_data(experiment.dataset.fingerprint, workdir)
            files.clear_leftovers(workdir)

    distributed.together(take)


class _Start(NamedTuple):
    """Where a training starts: at its beginning, or at its newest sound checkpoint."""

    state: TrainState
    progress: Progress
    checkpoints: Checkpoints


def _resumed(
    stack: contextlib.ExitStack, experiment: Experiment, workdir: epath.Path, extend: bool, say: Callable[[str], None]
) -> _Start:
    """Open the checkpoints of the run, and restore the newest sound one; without any, the run starts anew."""
    config = experiment.config
    # `experiment` has pretrained or random weights; a checkpoint of this run replaces them.
    state = create_state(
        experiment.variables, create_optimizer(experiment.optimizer, experiment.plan), experiment.plan, config.seed
    )
    checkpoints = stack.enter_context(
        open_checkpoints(workdir / files.CHECKPOINTS, keep=config.keep_checkpoints, frozen=experiment.plan.frozen)
    )
    progress = Progress()
    step = checkpoints.newest_sound(say)
    checkpoints.remove_after(step)
    if step is not None:
        state, progress = checkpoints.restore(state, step)
    if progress.step >= experiment.total_steps and extend:
        raise UserError(
            f"--extend needs a longer run: {workdir} has done {progress.step} steps, and this config asks "
            f"for {experiment.total_steps}. Raise config.epochs or config.steps."
        )
    return _Start(state, progress, checkpoints)


def _fitted(start: _Start, experiment: Experiment, workdir: epath.Path, quiet: bool, profile: bool) -> Run:
    """Train from the start to the end, and write the result."""
    config, (state, progress, checkpoints) = experiment.config, start
    del start  # It would keep the first parameters in memory.
    if distributed.is_first():  # A run that is extended will get another result.
        (workdir / files.RESULT).unlink(missing_ok=True)
    run_result.describe_run(workdir, experiment)
    write_decision(workdir, config, experiment.features)
    files.drop_metrics_after(workdir, progress.step, evaluation_due=progress.evaluation_due)
    log = (
        RunLog(
            workdir,
            total_steps=experiment.total_steps,
            step=progress.step,
            batch_size=config.batch_size,
            quiet=quiet,
        )
        if distributed.is_first()
        else None
    )
    try:
        if log:
            log_start(log, experiment, progress)
        experiment, progress = _with_features(experiment, state, progress, workdir, log)
        ended = not progress.evaluation_due and (
            progress.step >= experiment.total_steps or 0 < config.early_stopping <= progress.evaluations_since_best
        )
        if not ended and experiment.network.head.settings.closed_form:
            state, progress = closed_form.fit_head(experiment, state, progress, log=log, checkpoints=checkpoints)
        elif not ended:
            state, progress = fit(
                experiment,
                state,
                progress,
                log=log,
                checkpoints=checkpoints,
                profile=workdir / files.PROFILE if profile and log else None,
            )
        if log and (used := most_in_use()):
            log.say(used)
        checkpoints.wait()
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        best = progress.step if progress.best_step is None else progress.best_step
        if best != progress.step:
            variables = checkpoints.restore_variables(best, experiment.variables)
        result, temperature = finish(workdir, experiment, variables, best, progress, log)
        remove_files(workdir)
    finally:
        if log:
            log.close()
    return Run(
        workdir,
        to_config_dict(config),
        experiment.dataset.class_names,
        experiment.preprocessing,
        experiment.network,
        variables,
        best,
        result,
        temperature,
    )


def _with_features(
    experiment: Experiment, state: TrainState, progress: Progress, workdir: epath.Path, log: RunLog | None
) -> tuple[Experiment, Progress]:
    """Have the frozen layers compute what the run keeps of them; that counts as time of the run."""
    if not experiment.features.keeps:
        return experiment, progress
    kept = make_features(
        experiment.features,
        experiment.config,
        experiment.network,
        experiment.preprocessing,
        experiment.dataset,
        {"params": state.params, "batch_stats": state.batch_stats},
        folder=folder_of(workdir),
        say=log.say if log else lambda text: None,
    )
    return (
        dataclasses.replace(experiment, kept=kept),
        dataclasses.replace(progress, seconds=progress.seconds + kept.seconds),
    )
