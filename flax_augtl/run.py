"""A run: train it into a directory, resume it, load it, evaluate it and predict with it."""

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
from flax_augtl.run_data import examples_of_split, renamed_as_in, spelling_in
from flax_augtl.runtime import determinism, distributed
from flax_augtl.runtime.paths import absolute
from flax_augtl.runtime.text import for_terminal
from flax_augtl.training import result as run_result
from flax_augtl.training.checkpoints import Checkpoints, open_checkpoints
from flax_augtl.training.compiled_steps import compiled_predict_step
from flax_augtl.training.evaluation import Evaluation, evaluation
from flax_augtl.training.experiment import build_network, prepare
from flax_augtl.training.log import RunLog
from flax_augtl.training.loop import fit
from flax_augtl.training.memory import explain_out_of_memory, most_in_use
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.progress import Progress
from flax_augtl.training.start_log import log_start
from flax_augtl.training.state import create_state
from flax_augtl.trust import calibration, embeddings
from flax_augtl.trust.finish import finish
from flax_augtl.trust.views import averaged, evaluation_of_views, views_of
from flax_augtl.workdir import files, lock
from flax_augtl.workdir.description import read_result
from flax_augtl.workdir.resume import as_begun, check_data, check_processes, check_same, is_same


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network and what its run directory says about it.

    Attributes:
      workdir: the run directory.
      config: the configuration of the training, a locked `ConfigDict`.
      class_names: the names of the target classes.
      preprocessing: the evaluation transform, from images to the network's input.
      network: the network.
      variables: the network's variables at `step`.
      step: the step of the loaded checkpoint.
      result: the contents of result.json; None while the run is not finished.
      temperature: what `predict` divides logits by, as fitted on validation images (`trust.calibration`); None if these
        weights are not calibrated.
    """

    workdir: epath.Path
    config: Any  # Type checkers know no field of a ConfigDict.
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    network: AugmentedNetwork
    variables: Mapping[str, Any]
    step: int
    result: Mapping[str, Any] | None
    temperature: float | None = None

    def __repr__(self) -> str:
        """Return one line: the network, the number of classes and the test accuracy."""
        test = (self.result or {}).get("test") or {}
        accuracy = f", test accuracy {test['top1']:.4f}" if isinstance(test.get("top1"), float) else ""
        return for_terminal(
            f"<Run {self.workdir}: {self.config.network}, head {self.config.head.preset}, "
            f"{len(self.class_names)} classes, step {self.step}{accuracy}>"
        )

    def predict(self, images: Iterable[inputs.Input], *, batch_size: int = 32, views: str = "one") -> np.ndarray:
        """Return class probabilities of images, float32 [N, number of target classes], calibrated by `temperature`.

        Args:
          images: uint8 arrays [H, W, 3], Pillow images, or paths; each may have another size.
          batch_size: the number of images per batch.
          views: `one`, or over which views of each image the probabilities are averaged: `flip` for the image and its
            mirror image, `ten_crop` for the corners, the centre, and their mirror images.

        Raises:
          UserError: one of them is no image or cannot be read, or there are no such `views`.
        """
        step = averaged(compiled_predict_step(self.network, self.preprocessing), views)
        probabilities = [np.zeros((0, len(self.class_names)), np.float32)]
        size = 0
        for some in inputs.batches(images, batch_size):
            batch = [views_of(image, self.preprocessing, views) for image in some]
            # Pad every batch to the size of the first one, so that the step compiles once.
            size = size or len(batch)
            padded = batch + [np.zeros_like(batch[0])] * (size - len(batch))
            probabilities.append(np.asarray(step(self.variables, np.stack(padded)))[: len(batch)])
        return calibration.calibrated(np.concatenate(probabilities), self.temperature)

    def embed(
        self,
        images: Iterable[inputs.Input],
        *,
        layer: str | None = None,
        pooled: bool = True,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Return what a layer group computes for images, float32 [N, C], or [N, h, w, C] if it is not pooled.

        Args:
          images: as for `predict`.
          layer: a layer group of the source network, such as `layer4`; None is the one below the classification layer.
          pooled: whether to average over places; dense layers have none.
          batch_size: the number of images per batch.

        Raises:
          UserError: there is no such layer, or one of the images is no image or cannot be read.
        """
        layer = embeddings.checked_layer(self.network, layer)
        step = embeddings.compiled_embed_step(self.network, self.preprocessing, layer, pooled)
        found, size = [], 0
        for some in inputs.batches(images, batch_size):
            batch = [inputs.network_input(image, self.preprocessing) for image in some]
            size = size or len(batch)
            padded = batch + [np.zeros_like(batch[0])] * (size - len(batch))
            found.append(np.asarray(step(self.variables, np.stack(padded)))[: len(batch)])
        if found:
            return np.concatenate(found)
        blank = np.zeros((1, *2 * (self.preprocessing.image_size,), 3), np.uint8)
        return np.zeros((0, *jax.eval_shape(step, self.variables, blank).shape[1:]), np.float32)

    def evaluate(
        self, split: str = "test", *, dataset: Dataset | None = None, data_root: os.PathLike | str | None = None
    ) -> dict[str, Any]:
        """Return the metrics of a split (`Evaluation.metrics`) and its `confusion` matrix [C, C].

        `loss_calibrated` and `calibration_error_calibrated` are those of `predict`; the other metrics are computed without
        the temperature. The arguments are those of `evaluation`.
        """
        evaluated = self.evaluation(split, dataset=dataset, data_root=data_root)
        return {
            **evaluated.metrics,
            **calibration.calibrated_metrics(evaluated.probabilities, evaluated.labels, self.temperature),
            "confusion": evaluated.confusion,
        }

    def evaluation(
        self,
        split: str = "test",
        *,
        dataset: Dataset | None = None,
        data_root: os.PathLike | str | None = None,
        views: str = "one",
    ) -> Evaluation:
        """Evaluate a split: metrics, intervals, a table of the classes, and the probabilities before the calibration.

        Args:
          split: `train`, `val`, `test`, or `all` for all images of another folder.
          dataset: the dataset that `train` got, if it got one; otherwise the config names the data.
          data_root: where the data are now. For `all`: any folder with one sub-folder per class, or per some classes.
          views: over which views of each image the probabilities are averaged; see `predict`.

        Raises:
          UserError: the split does not exist, the data are missing, or they have changed, or there are no such `views`.
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
        if views != "one":
            step = compiled_predict_step(self.network, self.preprocessing)
            return evaluation_of_views(
                step,
                self.variables,
                self.preprocessing,
                examples,
                len(self.class_names),
                views,
                batch_size=config.batch_size,
            )
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

    def is_finished() -> bool:
        lock.check(workdir)
        files.check_links(workdir)
        check_same(config, workdir, extend)
        # Users may repeat the command that extended the run.
        finished = (workdir / files.RESULT).exists() and (not extend or is_same(config, workdir))
        if finished and dataset is not None:
            check_data(renamed_as_in(workdir, dataset).fingerprint, workdir)
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
        lambda: prepare(
            config,
            None if dataset is None else renamed_as_in(workdir, dataset),
            spelling_in(workdir, config),
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
    # `experiment` has pretrained or random weights; a checkpoint of this run replaces them below.
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
            """Lock the directory in the first process, for all processes of the run."""
            if distributed.is_first():
                stack.enter_context(lock.lock(workdir, say))
                # Another program may have written here while this one read the data.
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
        if distributed.is_first():  # A run that is extended will get another result.
            (workdir / files.RESULT).unlink(missing_ok=True)
        run_result.describe_run(workdir, experiment)
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
            result, temperature = finish(workdir, experiment, variables, best, progress, log)
        finally:
            if log:
                log.close()
    distributed.wait()  # Callers in other processes may read what the first process wrote.
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


def load_run(workdir: os.PathLike | str, *, step: str | int = "best") -> Run:
    """Load a run; its directory is all that is needed.

    Args:
      workdir: the run directory.
      step: `best` by validation (the last step if there is no validation split), `last`, or the number of a step.

    Raises:
      UserError: the directory holds no run, no checkpoint, or no checkpoint of that step.
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
        calibration.temperature_of(workdir, chosen),
    )


def _described(workdir: epath.Path) -> tuple[RunDescription, Config, AugmentedNetwork, Mapping[str, Any] | None]:
    """Return a run's description, its configuration, its network without weights, and its result."""
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
    """Return the step that `load_run` loads.

    Args:
      workdir: the run directory.
      checkpoints: its checkpoints.
      step: `best`, `last`, or the number of a step.
      newest: the newest undamaged step, for `best` and `last`.
      result: the contents of result.json, None if there is none.
    """
    steps = checkpoints.steps()
    if step in ("best", "last"):
        if newest is None:
            raise UserError(f"{workdir} has no checkpoint yet.")
        chosen = newest
        if step == "best":
            # An interrupted run may have been evaluated after its last checkpoint.
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
