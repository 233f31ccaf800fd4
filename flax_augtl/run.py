"""A run: train it into a directory, go on with it, load it again, evaluate it and predict with it."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from flax_augtl import distributed, freezing, run_directory, run_lock, run_records
from flax_augtl.data import Dataset, Examples, load_dataset
from flax_augtl.network import AugmentedNetwork
from flax_augtl.paths import absolute
from flax_augtl.pretrained import Preprocessing
from flax_augtl.pretrained.run_description import RunDescription, read_result, read_run_description
from flax_augtl.printable import for_terminal, on_one_line
from flax_augtl.resumption import as_begun, check_data, check_processes, check_same, check_split
from flax_augtl.training import metrics
from flax_augtl.training.checkpoints import Checkpoints, open_checkpoints
from flax_augtl.training.experiment import Experiment, build_network, prepare
from flax_augtl.training.log import RunLog
from flax_augtl.training.loop import evaluate, fit
from flax_augtl.training.memory import estimate, explain_out_of_memory, most_in_use
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.progress import Progress
from flax_augtl.training.ranges import check_ranges
from flax_augtl.training.state import create_state
from flax_augtl.training.step import compiled_predict_step


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

    def predict(self, images: Sequence[np.ndarray], *, batch_size: int = 32) -> np.ndarray:
        """Return class probabilities, float32 [N, number of target classes], of uint8 pictures [H, W, 3] of any size."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1.")
        step = compiled_predict_step(self.network, self.preprocessing)
        probabilities = [np.zeros((0, len(self.class_names)), np.float32)]
        for start in range(0, len(images), batch_size):
            batch = [_small(self.preprocessing, image) for image in images[start:start + batch_size]]
            # Always the same size, so that there is one compilation.
            padded = batch + [np.zeros_like(batch[0])] * (min(batch_size, len(images)) - len(batch))
            probabilities.append(np.asarray(step(self.variables, np.stack(padded)))[:len(batch)])
        return np.concatenate(probabilities)

    def evaluate(self, split: str = "test", *, dataset: Dataset | None = None) -> dict[str, Any]:
        """Return the metrics (`metrics.summary`) of a split, with the `confusion` matrix [C, C] beside them.

        Args:
          split: `train`, `val` or `test`.
          dataset: the one that `train` was given, if it was given one; else the config says where the data are.

        Raises:
          ValueError: there is no such split, or the data are no longer where the config says, or no longer the same.
        """
        dataset, examples = distributed.together(lambda: self._examples(split, dataset))
        distributed.require_equal(distributed.digest(self.variables) + dataset.fingerprint,
                                  "The processes evaluate different weights or data.")
        sums = evaluate(self.network, self.preprocessing, self.variables, examples, self.config.data,
                        batch_size=self.config.batch_size)
        return {**metrics.summary(sums), "confusion": sums["confusion"]}

    def _examples(self, split: str, dataset: Dataset | None) -> tuple[Dataset, Examples]:
        """Return the data and their split, checked against what the run was trained on."""
        given = dataset is not None
        dataset = dataset if given else load_dataset(self.config.data, seed=self.config.seed)
        splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
        if splits.get(split) is None:
            raise ValueError(f"{self.workdir} has no split {split!r}. Splits: "
                             f"{', '.join(name for name, examples in splits.items() if examples is not None)}.")
        if dataset.class_names != self.class_names:
            raise ValueError(f"The data have other classes than {self.workdir} was trained on: "
                             f"{len(dataset.class_names)} here, {len(self.class_names)} there.")
        if not given:
            check_split(splits[split].ids, split, self.workdir)
        return dataset, splits[split]


def _small(preprocessing: Preprocessing, image: np.ndarray) -> np.ndarray:
    """Return a picture as the evaluation transform makes it, uint8 [S, S, 3]."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(f"A picture must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}.")
    return preprocessing.resize_and_crop(Image.fromarray(image))


def train(config: ConfigDict, workdir: os.PathLike | str, *, dataset: Dataset | None = None, extend: bool = False,
          quiet: bool = False, profile: bool = False) -> Run:
    """Train what a configuration says, or go on where an earlier start of the same run ended.

    Several processes call it with the same arguments, each with its own view of the same workdir and data.

    Args:
      config: see configs/common.py.
      workdir: directory of the run; it is created where it does not exist.
      dataset: takes the place of what `config.data` names; `flax_augtl.data.dataset_from_arrays` and `dataset_from_files`
        make one.
      extend: go on with the run of another configuration that differs in lengths and schedule only.
      quiet: print nothing.
      profile: write a trace of some steps into `workdir`/profile, for TensorBoard or xprof.

    Returns:
      The run with the best weights (by validation; the last ones where there is no validation split).

    Raises:
      ValueError: something in the configuration or the data is wrong, `workdir` holds another run, or a device has too
        little memory (`training.memory.OutOfMemory`).
    """
    with explain_out_of_memory(config):
        return _train(config, workdir, dataset, extend, quiet, profile)


def _train(config: ConfigDict, workdir: os.PathLike | str, dataset: Dataset | None, extend: bool, quiet: bool,
           profile: bool) -> Run:
    workdir = absolute(workdir)
    check_processes(config, extend)

    def is_finished():
        run_lock.check(workdir)
        run_directory.check_links(workdir)
        check_same(config, workdir, extend)
        finished = not extend and (workdir / run_directory.RESULT).exists()
        if finished and dataset is not None:
            check_data(dataset, workdir)
        return finished

    if distributed.first_decides(is_finished):
        if not quiet:
            print(f"{workdir} holds this run, and it is finished. --extend goes on with it.")
        return load_run(workdir)
    config = distributed.together(lambda: as_begun(config, workdir))
    experiment = distributed.together(lambda: prepare(config, dataset))
    distributed.require_equal(experiment.dataset.fingerprint, "The processes see different data (pictures, labels, pictures "
                              "that cannot be read, or splits differ): give each host the same files.")
    distributed.require_equal(distributed.digest(experiment.variables), "The processes start from different weights: give "
                              "each host the same config.weights.")
    distributed.first_decides(lambda: check_data(experiment.dataset, workdir))
    # The order: this run's own checkpoint, then pretrained weights, then random ones (both in `experiment`).
    state = create_state(experiment.variables, create_optimizer(experiment.optimizer, experiment.plan), experiment.plan,
                         config.seed)
    distributed.first_decides(lambda: str(run_directory.prepare(workdir)))
    distributed.require_shared(workdir)

    def say(text: str) -> None:
        if not quiet and distributed.is_first():
            print(for_terminal(text), file=sys.stderr)

    with contextlib.ExitStack() as stack:
        def take() -> None:
            """Lock the directory; the first process does, for all of a run."""
            if distributed.is_first():
                stack.enter_context(run_lock.lock(workdir, say))
                # Another program may have been here while this one read the data.
                check_same(config, workdir, extend)
                check_data(experiment.dataset, workdir)
                run_directory.clear_leftovers(workdir)

        distributed.together(take)
        checkpoints = stack.enter_context(open_checkpoints(workdir / run_directory.CHECKPOINTS,
                                                           keep=config.keep_checkpoints))
        progress = Progress()
        step = checkpoints.newest_sound(say)
        checkpoints.remove_after(step)
        if step is not None:
            state, progress = checkpoints.restore(state, step)
        if progress.step >= experiment.total_steps and extend:
            raise ValueError(f"--extend needs a longer run: {workdir} has done {progress.step} steps, and this config asks "
                             f"for {experiment.total_steps}.")
        if distributed.is_first():  # Of a run that is extended: what comes now is no longer that result.
            (workdir / run_directory.RESULT).unlink(missing_ok=True)
        run_records.write_description(workdir, experiment)
        run_directory.drop_metrics_after(workdir, progress.step, evaluation_due=progress.evaluation_due)
        log = RunLog(workdir, total_steps=experiment.total_steps, step=progress.step, batch_size=config.batch_size,
                     quiet=quiet) if distributed.is_first() else None
        try:
            if log:
                _say_start(log, experiment, progress)
            ended = not progress.evaluation_due and (progress.step >= experiment.total_steps
                                                     or 0 < config.early_stopping <= progress.evaluations_since_best)
            if not ended:
                state, progress = fit(experiment, state, progress, log=log, checkpoints=checkpoints,
                                      profile=workdir / run_directory.PROFILE if profile and log else None)
            if log and (used := most_in_use()):
                log.say(used)
            checkpoints.wait()
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            best = progress.step if progress.best_step is None else progress.best_step
            if best != progress.step:
                variables = checkpoints.restore_variables(best, experiment.variables)
            result = run_records.result(experiment, variables, best, progress, log)
            run_directory.write_json(workdir / run_directory.RESULT, result)
        finally:
            if log:
                log.close()
    # Whoever comes back from here may read what the first process wrote.
    distributed.wait()
    return Run(workdir, config, experiment.dataset.class_names, experiment.preprocessing, experiment.network, variables,
               best, result)


def _say_start(log: RunLog, experiment: Experiment, progress: Progress) -> None:
    """Say what will be trained on what, with the table of what is frozen."""
    dataset = experiment.dataset
    for note in (*experiment.source["notes"], *dataset.notes):
        log.say(note)
    sizes = f"{len(dataset.train)} training, {len(dataset.val) if dataset.val is not None else 'no'} validation and " \
            f"{len(dataset.test)} test examples"
    names = on_one_line(", ".join(dataset.class_names[:4]) + ", …" * (len(dataset.class_names) > 4))
    log.say(f"{dataset.name}: {len(dataset.class_names)} classes ({names}), {sizes}; chosen by {dataset.metric}")
    log.say(f"{distributed.describe()}, {experiment.config.compute_dtype}, {experiment.preprocessing.image_size} × "
            f"{experiment.preprocessing.image_size} pixels")
    log.say(freezing.table(experiment.plan, experiment.variables["params"], float(experiment.rates.max()),
                           experiment.optimizer.new_layer_multiplier))
    log.say(str(estimate(experiment)))
    if progress.step:
        log.say(f"Going on from step {progress.step} of {experiment.total_steps}.")


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
    with open_checkpoints(workdir / run_directory.CHECKPOINTS, read_only=True) as checkpoints:
        newest = checkpoints.newest_sound(
            lambda text: print(for_terminal(text), file=sys.stderr)) if step in ("best", "last") else None
        chosen = distributed.together(lambda: _chosen(workdir, checkpoints, step, newest, result))
        size = description.preprocessing.image_size
        like = {"batch_stats": {}, **jax.eval_shape(
            lambda: network.init({"params": jax.random.key(0)}, np.zeros((1, size, size, 3), np.float32)))}
        variables = checkpoints.restore_variables(chosen, like)
    return Run(workdir, config, description.class_names, description.preprocessing, network, variables, chosen, result)


def _described(workdir: epath.Path) -> tuple[RunDescription, ConfigDict, AugmentedNetwork, Mapping[str, Any] | None]:
    """Return what a run directory says of its run, its configuration, its network without weights, and its result."""
    run_directory.check_links(workdir)
    description = read_run_description(workdir)
    config = ConfigDict(description.config)
    try:
        check_ranges(config)
        network = build_network(description.source, config, len(description.class_names))
    except ValueError as error:
        raise ValueError(f"The run in {workdir} cannot be loaded: {error}") from error
    if not (workdir / run_directory.CHECKPOINTS).exists():
        raise ValueError(f"{workdir} has no checkpoint yet.")
    return description, config, network, read_result(workdir)


def _chosen(workdir: epath.Path, checkpoints: Checkpoints, step: str | int, newest: int | None,
            result: Mapping[str, Any] | None) -> int:
    """Return the step that `load_run` is asked for; `newest` is the last sound one, for `best` and `last`."""
    steps = checkpoints.steps()
    if step in ("best", "last"):
        if newest is None:
            raise ValueError(f"{workdir} has no checkpoint yet.")
        chosen = newest
        if step == "best":
            # The last evaluation of an interrupted run may have come after its last checkpoint.
            best = checkpoints.progress(newest).best_step if result is None else result["best_step"]
            chosen = newest if best is None else best
    elif str(step).isdecimal():
        chosen = int(step)
    else:
        raise ValueError(f"--step={step} is not best, last or the number of a step. Steps: {', '.join(map(str, steps))}.")
    if chosen not in steps:
        raise ValueError(f"{workdir} has no checkpoint of step {chosen}. Steps: {', '.join(map(str, steps))}.")
    return chosen
