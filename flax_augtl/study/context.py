"""What the trials of a study share: the weights, the data of every seed, networks and schedules."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_augtl.config.durations import in_steps
from flax_augtl.config.heads import HeadSettings
from flax_augtl.config.presets import BUDGET, ResolvedStudy, resolved_config
from flax_augtl.config.schema import Config, ScheduleConfig
from flax_augtl.data import check_there, load_dataset
from flax_augtl.data.types import Dataset, Examples
from flax_augtl.errors import UserError
from flax_augtl.models import augmented as network
from flax_augtl.models import leep
from flax_augtl.models.augmented import HEAD, AugmentedNetwork, create_network
from flax_augtl.pretrained import Preprocessing, Source
from flax_augtl.study.grid import SCRATCH, Grid, Trial, make_grid
from flax_augtl.training import freezing
from flax_augtl.training.experiment import check_batch, check_norms, hashable, source_of, variant_of
from flax_augtl.training.methods import Places, places_of
from flax_augtl.training.optimizer import schedule_of
from flax_augtl.training.step import AXIS


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What all trials share.

    Attributes:
      config: the configuration of the study, with a fixed number of views.
      grid: what is compared.
      source: the pretrained source network with its classification layer.
      described: the description of the source network in a run directory (`workdir.files.SOURCE`).
      preprocessing: of the images.
      datasets: by seed.
    """

    config: Config
    grid: Grid
    source: Source
    described: Mapping[str, Any]
    preprocessing: Preprocessing
    datasets: Mapping[int, Dataset]
    _schedules: dict[Any, tuple[np.ndarray, int]] = dataclasses.field(default_factory=dict)

    @property
    def study(self) -> ResolvedStudy:
        """`config.study` with every field resolved."""
        assert isinstance(self.config.study, ResolvedStudy)
        return self.config.study

    def with_views(self, views: int) -> "Context":
        """Return a copy with another number of views of each image."""
        data = dataclasses.replace(self.config.data, views=views)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, data=data))

    @property
    def metric(self) -> str:
        """Name of the metric of the dataset, by which validation chooses."""
        return self.datasets[self.grid.seeds[0]].metric

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the target classes."""
        return self.datasets[self.grid.seeds[0]].class_names

    def settings(self, trial: Trial) -> HeadSettings:
        """Return the settings of a trial's head."""
        return dataclasses.replace(self.grid.heads[trial.head], classifier_rate=trial.classifier_rate)

    def network(self, trial: Trial) -> AugmentedNetwork:
        """Return the network of a trial; settings that only affect initialization are reset, to share compilations."""
        settings = dataclasses.replace(
            self.settings(trial),
            scale=10.0,
            classifier_rate="pretrained",
            classifier_init="pretrained",
            classifier_init_from="zero",
        )
        return create_network(
            self.source.name,
            settings,
            num_classes=len(self.class_names),
            source_classes=self.source.model.num_classes,
            variant=hashable(variant_of(self.source.model)),
            dtype=self.config.compute_dtype,
            axis_name=AXIS,
            remat=self.config.remat,
        )

    def freezing(self, trial: Trial) -> freezing.FreezingPlan:
        """Return which parameters a trial freezes."""
        return freezing.freezing_plan(
            self.network(trial).groups,
            trial.depth,
            pretrained=trial.head != SCRATCH,
            classifier_rate=trial.classifier_rate,
            subset=places_of(self.grid.rival(trial.head).settings).subset,
        )

    def places(self, trial: Trial) -> Places:
        """Return what the method of a trial plugs into its training."""
        return places_of(self.grid.rival(trial.head).settings).on(self.freezing(trial))

    def shared(self, trial: Trial) -> int:
        """Return the number of bottom layer groups that are frozen and equal to those of the source network."""
        settings, depth = self.settings(trial), self.freezing(trial).depth
        if settings.keep_classifier and settings.classifier_init != "pretrained":
            return min(depth, len(self.source.groups) - 1)
        return depth

    def variables(self, trial: Trial, start: int, inputs: np.ndarray | None = None) -> dict[str, Any]:
        """Return the initial variables of the layer groups from `start` on, as NumPy arrays.

        Args:
          trial: whose seed determines the random values.
          start: index of the first group.
          inputs: outputs of the kept layer for the trial's training examples, [n, Z], if its target classifier starts
            from LEEP; else None.
        """
        settings = self.settings(trial)
        # With all settings of the trial, some of which `self.network` resets.
        own = network.AugmentedNetwork(self.network(trial).source, self.network(trial).head.clone(settings=settings))
        variables = network.initial_variables(
            own, trial.seed, self.preprocessing.image_size, None if trial.head == SCRATCH else self.source.variables
        )
        if inputs is not None:
            started = leep.start_classifier(settings, inputs, self.examples(trial)[1], len(self.class_names))
            variables["params"][HEAD]["classifier"] = started
        below = set(own.source.groups[:start])
        return {
            collection: {
                part: {group: leaves for group, leaves in tree.items() if part == HEAD or group not in below}
                for part, tree in parts.items()
            }
            for collection, parts in variables.items()
        }

    def validation(self, seed: int) -> Examples:
        """Return the validation split of a seed."""
        examples = self.datasets[seed].val
        assert examples is not None, "gather() refuses data without a validation split"
        return examples

    def examples(self, trial: Trial) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the ids and labels that a trial trains on: training data, plus validation data for a final trial."""
        dataset = self.datasets[trial.seed]
        if trial.stage != "final" or dataset.val is None:
            return dataset.train.ids, dataset.train.labels
        return (*dataset.train.ids, *dataset.val.ids), np.concatenate([dataset.train.labels, dataset.val.labels])

    def schedule(self, trial: Trial) -> tuple[np.ndarray, int]:
        """Return the learning rate of a trial at every step, and the steps between two evaluations."""
        key = trial.learning_rate, trial.steps, len(self.examples(trial)[1])
        if key not in self._schedules:
            self._schedules[key] = self._schedule(trial)
        return self._schedules[key]

    def _schedule(self, trial: Trial) -> tuple[np.ndarray, int]:
        config = dataclasses.replace(self.config, learning_rate=trial.learning_rate)
        if trial.steps is not None:
            schedule = config.schedule
            if self.study.search == BUDGET:
                schedule = self._shorter_warmup(trial, trial.steps)
            # The chosen length may be shorter than the warm-up.
            if trial.steps < 2:
                schedule = _with_warmup(schedule, None)
            config = dataclasses.replace(config, steps=trial.steps, epochs=None, examples=None, schedule=schedule)
        return schedule_of(config, len(self.examples(trial)[1]))

    def _shorter_warmup(self, trial: Trial, steps: int) -> ScheduleConfig:
        """Return the schedule with a warm-up that is shortened in the same proportion as the training."""
        config, lengths = self.config, {"examples": len(self.examples(trial)[1]), "batch_size": self.config.batch_size}
        warmup, total = in_steps(config.schedule, "warmup", **lengths), in_steps(config, "", **lengths)
        if warmup and total and steps < total:
            return _with_warmup(config.schedule, warmup * steps // total or None)
        return config.schedule


def _with_warmup(schedule: ScheduleConfig, steps: int | None) -> ScheduleConfig:
    return dataclasses.replace(schedule, warmup_steps=steps, warmup_epochs=None, warmup_examples=None)


def gather(config: Config, datasets: Mapping[int, Dataset] | None = None, *, random_weights: bool = False) -> Context:
    """Load the weights and the data of all seeds of a study.

    Args:
      config: of the study.
      datasets: by seed; replaces what `config.data` names.
      random_weights: take random weights in place of config.weights, for a dry run.

    Raises:
      UserError: the configuration, the data or the weights are invalid.
    """
    config = resolved_config(config)
    check_batch(config)
    for name in ("mixup", "cutmix"):
        if getattr(config.data, name):
            raise UserError(
                f"A study reuses activations, but config.data.{name}={getattr(config.data, name)} mixes images anew in "
                "every step. Set it to 0."
            )
    if not config.data.views:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, views=config.study.views or 0))
    if config.data.views < 1:
        raise UserError("A study needs a fixed number of views of each image. Set config.study.views to at least 1.")
    if datasets is None:
        check_there(config.data)
    source, preprocessing, described = source_of(
        dataclasses.replace(config, weights=None, weights_sha256=None) if random_weights else config
    )
    grid = make_grid(
        config, source.groups, pretrained=config.weights is not None, classifier=bool(source.model.num_classes)
    )
    if datasets is None:
        datasets = {seed: load_dataset(config.data, seed=seed) for seed in grid.seeds}
    for rival in grid.rivals.values():
        check_norms(rival.settings, source.variables)
    for seed in grid.seeds:
        if datasets[seed].val is None:
            raise UserError(
                "A study chooses on validation data, but there are none. Set config.data.validation above 0, "
                "such as 0.2."
            )
    return Context(config, grid, source, described, preprocessing, {seed: datasets[seed] for seed in grid.seeds})
