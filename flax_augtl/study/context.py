"""What the cells of a study share: weights, data of every seed, networks, and where the activations begin that they read."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flax_augtl.config.durations import in_steps
from flax_augtl.config.heads import HeadSettings
from flax_augtl.config.presets import BUDGET, ResolvedStudy, resolved_config
from flax_augtl.config.schema import Config, ScheduleConfig
from flax_augtl.data import Dataset, check_there, load_dataset
from flax_augtl.errors import UserError
from flax_augtl.models import augmented as network
from flax_augtl.models import leep
from flax_augtl.models.augmented import HEAD, AugmentedNetwork, create_network
from flax_augtl.pretrained import Preprocessing, Source
from flax_augtl.study.grid import SCRATCH, Cell, Grid, make_grid
from flax_augtl.training import freezing
from flax_augtl.training.experiment import check_batch, hashable, schedule_of, source_of, variant_of
from flax_augtl.training.step import AXIS


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """What all cells share.

    Attributes:
      config: the study's configuration, with finite views.
      grid: what is compared.
      source: the pretrained source network with its classification layer.
      described: what `run_directory.SOURCE` says of it.
      preprocessing: of the pictures.
      datasets: by seed.
      metric: of the data set, by which validation chooses.
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
        """`config.study`, in which no field is left to the preset."""
        assert isinstance(self.config.study, ResolvedStudy)
        return self.config.study

    def with_views(self, views: int) -> "Material":
        """Return the same with another number of views of an image."""
        data = dataclasses.replace(self.config.data, views=views)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, data=data))

    @property
    def metric(self) -> str:
        """Name of the data set's own metric."""
        return self.datasets[self.grid.seeds[0]].metric

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the target task."""
        return self.datasets[self.grid.seeds[0]].class_names

    def settings(self, cell: Cell) -> HeadSettings:
        """Return the settings of a cell's head."""
        return dataclasses.replace(self.grid.heads[cell.head], classifier_rate=cell.classifier_rate)

    def network(self, cell: Cell) -> AugmentedNetwork:
        """Return a cell's network. What only changes initial variables has one value in all: they share compilations."""
        settings = dataclasses.replace(
            self.settings(cell),
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

    def freezing(self, cell: Cell) -> freezing.FreezingPlan:
        """Return what a cell freezes."""
        return freezing.freezing_plan(
            self.network(cell).groups, cell.depth, pretrained=cell.head != SCRATCH, classifier_rate=cell.classifier_rate
        )

    def shared(self, cell: Cell) -> int:
        """Return how many layer groups at the bottom of a network are frozen, and as the source network has them."""
        settings, depth = self.settings(cell), self.freezing(cell).depth
        if settings.keep_classifier and settings.classifier_init != "pretrained":
            return min(depth, len(self.source.groups) - 1)
        return depth

    def variables(self, cell: Cell, start: int, inputs: np.ndarray | None = None) -> dict[str, Any]:
        """Return the initial variables of the layer groups from `start` on, of numpy arrays.

        Args:
          cell: whose seed draws what is random.
          start: index of the first group.
          inputs: outputs of the kept layer for the cell's training examples, [n, Z], where its target classifier starts
            from LEEP; else None.
        """
        settings = self.settings(cell)
        # With the cell's own settings, which `self.network` leaves out.
        own = network.AugmentedNetwork(self.network(cell).source, self.network(cell).head.clone(settings=settings))
        variables = network.initial_variables(
            own, cell.seed, self.preprocessing.image_size, None if cell.head == SCRATCH else self.source.variables
        )
        if inputs is not None:
            started = leep.start_classifier(settings, inputs, self.examples(cell)[1], len(self.class_names))
            variables["params"][HEAD]["classifier"] = started
        below = set(own.source.groups[:start])
        return {
            collection: {
                part: {group: leaves for group, leaves in tree.items() if part == HEAD or group not in below}
                for part, tree in parts.items()
            }
            for collection, parts in variables.items()
        }

    def examples(self, cell: Cell) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the ids and labels of what a cell trains on: training data, for a final cell with validation data."""
        dataset = self.datasets[cell.seed]
        if cell.stage != "final" or dataset.val is None:
            return dataset.train.ids, dataset.train.labels
        return (*dataset.train.ids, *dataset.val.ids), np.concatenate([dataset.train.labels, dataset.val.labels])

    def schedule(self, cell: Cell) -> tuple[np.ndarray, int]:
        """Return a cell's learning rate at every step, and the steps between two evaluations."""
        key = cell.learning_rate, cell.steps, len(self.examples(cell)[1])
        if key not in self._schedules:
            self._schedules[key] = self._schedule(cell)
        return self._schedules[key]

    def _schedule(self, cell: Cell) -> tuple[np.ndarray, int]:
        config = dataclasses.replace(self.config, learning_rate=cell.learning_rate)
        if cell.steps is not None:
            schedule = config.schedule
            if self.study.search == BUDGET:
                schedule = self._shorter_warmup(cell, cell.steps)
            # The chosen length may be shorter than the warm-up.
            if cell.steps < 2:
                schedule = _with_warmup(schedule, None)
            config = dataclasses.replace(config, steps=cell.steps, epochs=None, examples=None, schedule=schedule)
        return schedule_of(config, len(self.examples(cell)[1]))

    def _shorter_warmup(self, cell: Cell, steps: int) -> ScheduleConfig:
        """Return the schedule with a warm-up that has the share of `steps` that it has of the config's own length."""
        config, lengths = self.config, {"examples": len(self.examples(cell)[1]), "batch_size": self.config.batch_size}
        warmup, total = in_steps(config.schedule, "warmup", **lengths), in_steps(config, "", **lengths)
        if warmup and total and steps < total:
            return _with_warmup(config.schedule, warmup * steps // total or None)
        return config.schedule


def _with_warmup(schedule: ScheduleConfig, steps: int | None) -> ScheduleConfig:
    return dataclasses.replace(schedule, warmup_steps=steps, warmup_epochs=None, warmup_examples=None)


def gather(config: Config, datasets: Mapping[int, Dataset] | None = None) -> Material:
    """Load the weights and the data of all seeds of a study.

    Args:
      config: of the study.
      datasets: by seed; takes the place of what `config.data` names.

    Raises:
      UserError: something in the configuration, the data or the weights is wrong.
    """
    config = resolved_config(config)
    check_batch(config)
    for name in ("mixup", "cutmix"):
        if getattr(config.data, name):
            raise UserError(
                f"A study reuses activations, but config.data.{name}={getattr(config.data, name)} mixes images anew in "
                "every step: set it to 0."
            )
    if not config.data.views:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, views=config.study.views or 0))
    if config.data.views < 1:
        raise UserError("A study needs a fixed number of views of each image: set config.study.views to at least 1.")
    if datasets is None:
        check_there(config.data)
    source, preprocessing, described = source_of(config)
    grid = make_grid(
        config, source.groups, pretrained=config.weights is not None, classifier=bool(source.model.num_classes)
    )
    if datasets is None:
        datasets = {seed: load_dataset(config.data, seed=seed) for seed in grid.seeds}
    for seed in grid.seeds:
        if datasets[seed].val is None:
            raise UserError(
                "A study chooses on validation data, but there are none: set config.data.validation above 0, "
                "such as 0.2."
            )
    return Material(config, grid, source, described, preprocessing, {seed: datasets[seed] for seed in grid.seeds})


def cuts(material: Material, groups: Sequence[tuple[str, str, str]]) -> set[int]:
    """Return at which cuts cells of these (head, depth, classifier rate) read."""
    return {material.shared(Cell("select", *group, 1.0, 0)) for group in groups}
