"""A run: train it into a directory, go on with it, load it again, evaluate it and predict with it."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from flax_augtl.config.convert import from_json, plain, to_config_dict, typed
from flax_augtl.config.schema import Config
from flax_augtl.data import Dataset
from flax_augtl.data.images import inputs
from flax_augtl.data.types import fingerprint
from flax_augtl.errors import UserError
from flax_augtl.models.augmented import AugmentedNetwork
from flax_augtl.pretrained import Preprocessing
from flax_augtl.pretrained.run_description import RunDescription, read_run_description
from flax_augtl.run_data import examples_of_split, named_as_in, spelling_in
from flax_augtl.runtime import determinism, distributed
from flax_augtl.runtime.paths import absolute
from flax_augtl.runtime.text import for_terminal, on_one_line
from flax_augtl.training import freezing
from flax_augtl.training import result as run_records
from flax_augtl.training.balance import imbalance
from flax_augtl.training.checkpoints import Checkpoints, open_checkpoints
from flax_augtl.training.evaluation import Evaluation, evaluation
from flax_augtl.training.experiment import Experiment, build_network, prepare
from flax_augtl.training.ineffective import ineffective_settings
from flax_augtl.training.log import RunLog
from flax_augtl.training.loop import fit
from flax_augtl.training.memory import estimate, explain_out_of_memory, most_in_use
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.precision import fewer_bits
from flax_augtl.training.progress import Progress
from flax_augtl.training.state import create_state
from flax_augtl.training.step import compiled_predict_step
from flax_augtl.workdir import files, lock
from flax_augtl.workdir.description import read_result
from flax_augtl.workdir.resume import as_begun, check_data, check_processes, check_same, is_same

_METRICS = {"top1": "top-1 accuracy", "mean_per_class": "mean accuracy per class"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network, as its directory has it.

    Attributes:
      workdir: the directory.
      config: the configuration it was trained with.
      class_names: one name a target class.
      preprocessing: from pictures to what the network reads.
      network: the network.
      variables: of the network, at `step`.
      step: the step of the checkpoint that was loaded.
      result: contents of result.json, None while the run is not finished.
    """

    workdir: epath.Path
    config: ConfigDict
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    network: AugmentedNetwork
    variables: Mapping[str, Any]
    step: int
    result: Mapping[str, Any] | None

    def __repr__(self) -> str:
        """Return one line: what network this is, of how many classes, and how good."""
        test = (self.result or {}).get("test") or {}
        accuracy = f", test accuracy {test['top1']:.4f}" if isinstance(test.get("top1"), float) else ""
        return for_terminal(
            f"<Run {self.workdir}: {self.config.network}, head {self.config.head.preset}, "
            f"{len(self.class_names)} classes, step {self.step}{accuracy}>"
        )

    def predict(self, images: Iterable[inputs.Input], *, batch_size: int = 32) -> np.ndarray:
        """Return class probabilities of images, float32 [N, number of target classes].

        Args:
          images: of any size: uint8 arrays [H, W, 3], Pillow images, or paths.
          batch_size: how many images are computed at a time.

        Raises:
          ValueError: one of them is no image or cannot be read.
        """
        step = compiled_predict_step(self.network, self.preprocessing)
        probabilities = [np.zeros((0, len(self.class_names)), np.float32)]
        size = 0
        for some in inputs.batches(images, batch_size):
            batch = [inputs.network_input(image, self.preprocessing) for image in some]
            # Always the size of the first batch, so that there is one compilation.
            size = size or len(batch)
            padded = batch + [np.zeros_like(batch[0])] * (size - len(batch))
            probabilities.append(np.asarray(step(self.variables, np.stack(padded)))[: len(batch)])
        return np.concatenate(probabilities)

    def evaluate(
        self, split: str = "test", *, dataset: Dataset | None = None, data_root: os.PathLike | str | None = None
    ) -> dict[str, Any]:
        """Return the metrics (`Evaluation.metrics`) of a split, with the `confusion` matrix [C, C] beside them.

        The arguments are those of `evaluation`.
        """
        evaluated = self.evaluation(split, dataset=dataset, data_root=data_root)
        return {**evaluated.metrics, "confusion": evaluated.confusion}

    def evaluation(
        self, split: str = "test", *, dataset: Dataset | None = None, data_root: os.PathLike | str | None = None
    ) -> Evaluation:
        """Evaluate a split: metrics, intervals, what is true of each class, and the probabilities of every image.

        Args:
          split: `train`, `val`, `test`, or, for all images of another folder, `all`.
          dataset: the one that `train` was given, if it was given one; else the config says where the data are.
          data_root: where the data are now; for `all` any folder with a sub-folder for each class, or for some of them.

        Raises:
          ValueError: there is no such split, or the data are not there or no longer the same.
        """
        config = from_json(plain(self.config))
        examples, notes = distributed.together(
            lambda: examples_of_split(
                config, self.workdir, self.class_names, split, dataset=dataset, data_root=data_root
            )
        )
        distributed.require_equal(
            distributed.digest(self.variables) + fingerprint(examples.ids, examples.labels),
            "The processes evaluate different weights or data.",
        )
        for note in notes if distributed.is_first() else ():
            print(for_terminal(note), file=sys.stderr)
        return evaluation(
            self.network,
            self.preprocessing,
            self.variables,
            examples,
            config.data,
            batch_size=config.batch_size,
        )


def train(
    config: ConfigDict,
    workdir: os.PathLike | str,
    *,
    dataset: Dataset | None = None,
    extend: bool = False,
    quiet: bool = False,
    profile: bool = False,
) -> Run:
    """Train what a configuration says, or go on where an earlier start of the same run ended.

    Several processes call it with the same arguments, each with its own view of the same workdir and data.

    Args:
      config: see configs/common.py.
      workdir: directory of the run; it is created where it does not exist.
      dataset: takes the place of what `config.data` names; `flax_augtl.data.dataset_from_arrays` and
        `dataset_from_files` make one.
      extend: go on with the run of another configuration that differs in lengths and schedule only.
      quiet: print nothing.
      profile: write a trace of some steps into `workdir`/profile, for TensorBoard or xprof.

    Returns:
      The run with the best weights (by validation; the last ones where there is no validation split).

    Raises:
      ValueError: something in the configuration or the data is wrong, `workdir` holds another run, or a device has too
        little memory (`training.memory.OutOfMemory`).
    """
    wanted = typed(config)
    with explain_out_of_memory(wanted):
        return _train(wanted, workdir, dataset, extend, quiet, profile)


def _train(
    config: Config, workdir: os.PathLike | str, dataset: Dataset | None, extend: bool, quiet: bool, profile: bool
) -> Run:
    workdir = absolute(workdir)
    if config.deterministic:
        determinism.start(workdir)
    check_processes(config, extend)

    def is_finished():
        lock.check(workdir)
        files.check_links(workdir)
        check_same(config, workdir, extend)
        # The command that extended a run may be given again.
        finished = (workdir / files.RESULT).exists() and (not extend or is_same(config, workdir))
        if finished and dataset is not None:
            check_data(named_as_in(workdir, dataset).fingerprint, workdir)
        return finished

    if distributed.first_decides(is_finished):
        if not quiet:
            print(
                for_terminal(
                    f"{workdir} holds this run, and it is finished. To train it longer, raise config.epochs or "
                    "config.steps and add --extend."
                )
            )
        return load_run(workdir)
    config = distributed.together(lambda: as_begun(config, workdir))
    experiment = distributed.together(
        lambda: prepare(config, named_as_in(workdir, dataset), spelling_in(workdir, config))
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
    # The order: this run's own checkpoint, then pretrained weights, then random ones (both in `experiment`).
    state = create_state(
        experiment.variables, create_optimizer(experiment.optimizer, experiment.plan), experiment.plan, config.seed
    )
    distributed.first_decides(lambda: str(files.prepare(workdir)))
    distributed.require_shared(workdir)

    def say(text: str) -> None:
        if not quiet and distributed.is_first():
            print(for_terminal(text), file=sys.stderr)

    with contextlib.ExitStack() as stack:

        def take() -> None:
            """Lock the directory; the first process does, for all of a run."""
            if distributed.is_first():
                stack.enter_context(lock.lock(workdir, say))
                # Another program may have been here while this one read the data.
                check_same(config, workdir, extend)
                check_data(experiment.dataset.fingerprint, workdir)
                files.clear_leftovers(workdir)

        distributed.together(take)
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
        if distributed.is_first():  # Of a run that is extended: what comes now is no longer that result.
            (workdir / files.RESULT).unlink(missing_ok=True)
        run_records.describe_run(workdir, experiment)
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
                _say_start(log, experiment, progress)
            ended = not progress.evaluation_due and (
                progress.step >= experiment.total_steps or 0 < config.early_stopping <= progress.evaluations_since_best
            )
            if not ended:
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
            result = run_records.result(experiment, variables, best, progress, log)
            files.write_json(workdir / files.RESULT, result)
        finally:
            if log:
                log.close()
    # Whoever comes back from here may read what the first process wrote.
    distributed.wait()
    return Run(
        workdir,
        to_config_dict(config),
        experiment.dataset.class_names,
        experiment.preprocessing,
        experiment.network,
        variables,
        best,
        result,
    )


def _say_start(log: RunLog, experiment: Experiment, progress: Progress) -> None:
    """Say what will be trained on what, with the table of what is frozen."""
    dataset = experiment.dataset
    for note in (*experiment.source["notes"], *dataset.notes):
        log.say(note)
    sizes = (
        f"{len(dataset.train)} training, {len(dataset.val) if dataset.val is not None else 'no'} validation and "
        f"{len(dataset.test)} test examples"
    )
    names = on_one_line(", ".join(dataset.class_names[:4]) + ", …" * (len(dataset.class_names) > 4))
    log.say(
        f"{dataset.name}: {len(dataset.class_names)} classes ({names}), {sizes}; "
        + (
            "the last checkpoint counts, because there is no validation split"
            if dataset.val is None
            else f"the best checkpoint is chosen by validation {_METRICS[dataset.metric]}"
        )
    )
    if warning := imbalance(dataset.train.labels, dataset.class_names, experiment.config):
        log.say(warning)
    log.say(
        f"{distributed.describe()}, {experiment.config.compute_dtype}, {experiment.preprocessing.image_size} × "
        f"{experiment.preprocessing.image_size} pixels"
    )
    if sentence := fewer_bits(experiment.config.compute_dtype):
        log.say(sentence)
    log.say(
        freezing.table(
            experiment.plan,
            experiment.variables["params"],
            float(experiment.rates.max()),
            experiment.optimizer.new_layer_multiplier,
        )
    )
    log.say(str(estimate(experiment)))
    for sentence in ineffective_settings(
        experiment.config,
        total_steps=experiment.total_steps,
        evaluate_every=experiment.evaluate_every,
        examples=len(dataset.train),
        has_validation=dataset.val is not None,
    ):
        log.say(f"warning: {sentence}")
    if progress.step:
        log.say(f"Resuming from step {progress.step} of {experiment.total_steps}.")


def load_run(workdir: os.PathLike | str, *, step: str | int = "best") -> Run:
    """Load a run from its directory, and from nothing else.

    Args:
      workdir: the directory.
      step: `best` (by validation; the last one where there is no validation split), `last`, or the number of a step.

    Raises:
      ValueError: the directory holds no run, no checkpoint, or none of that step.
    """
    workdir = absolute(workdir)
    description, config, network, result = distributed.together(lambda: _described(workdir))
    with open_checkpoints(workdir / files.CHECKPOINTS, read_only=True) as checkpoints:
        newest = (
            checkpoints.newest_sound(lambda text: print(for_terminal(text), file=sys.stderr))
            if step in ("best", "last")
            else None
        )
        chosen = distributed.together(lambda: _chosen(workdir, checkpoints, step, newest, result))
        size = description.preprocessing.image_size
        like = {
            "batch_stats": {},
            **jax.eval_shape(
                lambda: network.init({"params": jax.random.key(0)}, np.zeros((1, size, size, 3), np.float32))
            ),
        }
        variables = checkpoints.restore_variables(chosen, like)
    return Run(
        workdir,
        to_config_dict(config),
        description.class_names,
        description.preprocessing,
        network,
        variables,
        chosen,
        result,
    )


def _described(workdir: epath.Path) -> tuple[RunDescription, Config, AugmentedNetwork, Mapping[str, Any] | None]:
    """Return what a run directory says of its run, its configuration, its network without weights, and its result."""
    files.check_links(workdir)
    description = read_run_description(workdir)
    config = from_json(description.config)
    try:
        network = build_network(description.source, config, len(description.class_names))
    except ValueError as error:
        raise UserError(f"The run in {workdir} cannot be loaded: {error}") from error
    if not (workdir / files.CHECKPOINTS).exists():
        raise UserError(f"{workdir} has no checkpoint yet.")
    return description, config, network, read_result(workdir)


def _chosen(
    workdir: epath.Path, checkpoints: Checkpoints, step: str | int, newest: int | None, result: Mapping[str, Any] | None
) -> int:
    """Return the step that `load_run` is asked for; `newest` is the last sound one, for `best` and `last`."""
    steps = checkpoints.steps()
    if step in ("best", "last"):
        if newest is None:
            raise UserError(f"{workdir} has no checkpoint yet.")
        chosen = newest
        if step == "best":
            # The last evaluation of an interrupted run may have come after its last checkpoint.
            best = checkpoints.progress(newest).best_step if result is None else result["best_step"]
            chosen = newest if best is None else best
    elif str(step).isdecimal():
        chosen = int(step)
    else:
        raise UserError(
            f"--step={step} is not best, last or the number of a step. Steps: {', '.join(map(str, steps))}."
        )
    if chosen not in steps:
        raise UserError(f"{workdir} has no checkpoint of step {chosen}. Steps: {', '.join(map(str, steps))}.")
    return chosen
