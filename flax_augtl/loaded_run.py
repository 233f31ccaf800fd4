"""A trained run: load it from its directory, evaluate it, and predict with it."""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from flax_augtl.config.convert import from_json, plain, to_config_dict
from flax_augtl.config.schema import Config
from flax_augtl.data import Dataset
from flax_augtl.data.images import inputs
from flax_augtl.data.loading.image_stream import input_stream, source_stream, view_path
from flax_augtl.data.types import fingerprint
from flax_augtl.errors import UserError
from flax_augtl.models.augmented import AugmentedNetwork
from flax_augtl.pretrained import Preprocessing
from flax_augtl.pretrained.run_description import RunDescription, read_run_description
from flax_augtl.run_data import examples_of_split
from flax_augtl.runtime import distributed
from flax_augtl.runtime.paths import absolute
from flax_augtl.runtime.text import for_terminal
from flax_augtl.training.checkpoints import Checkpoints, open_checkpoints
from flax_augtl.training.evaluation import Evaluation, evaluation
from flax_augtl.training.experiment import build_network
from flax_augtl.training.pmapped import replicate
from flax_augtl.trust import calibration, embeddings, progress
from flax_augtl.trust.predictor import Predictor, rounded
from flax_augtl.trust.views import evaluation_of_views
from flax_augtl.workdir import files
from flax_augtl.workdir.description import read_result


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
          images: uint8 arrays [H, W, 3], Pillow images, or paths; each may have another size. They may come from an
            iterator, of which only a few batches are held at a time.
          batch_size: the number of images per batch over all local devices, rounded up to a multiple of them.
          views: `one`, or over which views of each image the probabilities are averaged: `flip` for the image and its
            mirror image, `ten_crop` for the corners, the centre, and their mirror images.

        Raises:
          UserError: one of them is no image or cannot be read, or there are no such `views`.
        """
        predictor = self.predictor(views)
        size = rounded(batch_size) if batch_size > 0 else batch_size
        threads = self.config.data.threads
        with input_stream(images, self.preprocessing, views=views, batch_size=size, threads=threads) as stream:
            found = [outputs.probabilities for outputs in predictor.over(batch.pixels for batch in stream)]
        probabilities = np.concatenate([np.zeros((0, len(self.class_names)), np.float32), *found])
        return calibration.calibrated(probabilities, self.temperature)

    def predictor(self, views: str = "one") -> Predictor:
        """Return what computes the outputs of the network; the weights go to the devices once."""
        return Predictor(self, views, self._placed)

    @functools.cached_property
    def _placed(self) -> Any:
        return replicate(dict(self.variables))

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
        what = f"evaluation of {split}" + (f" with {views}" if views != "one" else "")
        with contextlib.closing(progress.Counter(what, len(examples))) as counter:
            if views == "one":
                return evaluation(
                    self.network,
                    self.preprocessing,
                    self.variables,
                    examples,
                    config.data,
                    batch_size=config.batch_size,
                    done=counter.add,
                )
            predictor = self.predictor(views)
            with source_stream(
                examples.source,
                examples.indices,
                view_path(self.preprocessing, views),
                config.data,
                batch_size=rounded(config.batch_size),
            ) as stream:

                def probabilities() -> Iterator[np.ndarray]:
                    for outputs in predictor.over(batch.pixels for batch in stream):
                        yield outputs.probabilities
                        counter.add(len(outputs.probabilities))

                return evaluation_of_views(probabilities(), examples, len(self.class_names))


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
