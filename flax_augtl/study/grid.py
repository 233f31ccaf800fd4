"""What a study compares: heads × freeze depths × learning rates × seeds, as trials with stable names."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from flax_augtl.config.heads import PRESETS, HeadSettings, head_settings
from flax_augtl.config.methods import METHODS, PLAIN, check_pretrained
from flax_augtl.config.nearest import did_you_mean
from flax_augtl.config.presets import SCRATCH, STUDIES, preset_of, resolved
from flax_augtl.config.schema import Config
from flax_augtl.errors import UserError
from flax_augtl.models.augmented import CLASSIFICATION
from flax_augtl.study.norms import with_norms
from flax_augtl.study.rivals import Rival, finer_rates, with_methods
from flax_augtl.training.experiment import method_of

NONE, ALL, BLOCKS = "none", "all", "blocks"
Group = tuple[str, str, str]  # Head, depth and classifier rate.


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a study.

    Attributes:
      stage: `select` (trained on training data; validation chooses among these) or `final` (trained on training and
        validation data, and tested).
      head: its name in the study.
      depth: the topmost frozen layer group, or `none`; `Grid.label` gives the name that is shown.
      classifier_rate: which learning rate the kept classification layer has, `pretrained` or `new`; controls try both.
      learning_rate: of pretrained layers.
      seed: of the split, the initialisation and the order of the data.
      steps: length of the training; None for the length that the config gives.
    """

    stage: str
    head: str
    depth: str
    classifier_rate: str
    learning_rate: float
    seed: int
    steps: int | None = None

    @property
    def name(self) -> str:
        """Name that is the same in every start of the study, and valid as a file name."""
        rate = "" if self.classifier_rate == "pretrained" else "-new"
        steps = "" if self.steps is None else f"-{self.steps}"
        return f"{self.stage}-{self.head}-{self.depth}{rate}-{self.learning_rate:g}-{self.seed}{steps}"

    @property
    def group(self) -> Group:
        """Head, depth and classifier rate: each such group has a grid of learning rates of its own."""
        return self.head, self.depth, self.classifier_rate


@dataclasses.dataclass(frozen=True)
class Grid:
    """What a study compares.

    Attributes:
      heads: settings of every head, by name; `scratch` is the traditional head on random weights.
      depths: freeze depths of every head, from `none` upwards, as in `Trial.depth`.
      labels: for every head, its requested depths, each with the `Trial.depth` that it stands for.
      axis: all requested depths, bottom to top, `all` last.
      rates: learning rates, ascending.
      seeds: the same for all heads, so that results are paired.
      selection_seeds: those of the seeds that choices are made with.
      rivals: how each head is fine-tuned, by name.
    """

    heads: Mapping[str, HeadSettings]
    depths: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, Mapping[str, str]]
    axis: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    selection_seeds: tuple[int, ...]
    rivals: Mapping[str, Rival] = dataclasses.field(default_factory=dict)

    def rival(self, head: str) -> Rival:
        """Return how a head is fine-tuned."""
        return self.rivals.get(head) or Rival(head, PLAIN, METHODS[PLAIN])

    def groups(self) -> list[Group]:
        """Return every (head, depth, classifier rate) that is tried."""
        found = []
        for name, settings in self.heads.items():
            # A control at the rate of pretrained layers alone would be an unfair comparison (METHOD.md §4).
            control = settings.keep_classifier and settings.classifier_init != "pretrained"
            for depth in self.depths[name]:
                rates = (
                    ("pretrained", "new") if control and depth not in CLASSIFICATION else (settings.classifier_rate,)
                )
                found += [(name, depth, rate) for rate in rates]
        return found

    def label(self, head: str, depth: str) -> str:
        """Return the name under which a head's depth is shown: `all` if everything below the new layers is frozen."""
        found = [label for label, group in self.labels[head].items() if group == depth]
        return ALL if ALL in found else found[0]

    def title(self, group: Group) -> str:
        """Return the text that is shown for a (head, depth, classifier rate)."""
        head, depth, rate = group
        return f"{head} {self.label(head, depth)}{' (at new rate)' if rate == 'new' else ''}"

    def same_depths(self) -> dict[str, dict[str, str]]:
        """Return, for each head, the requested depths that are shown under another name, with that name."""
        return {
            head: {
                label: self.label(head, depth) for label, depth in labels.items() if self.label(head, depth) != label
            }
            for head, labels in self.labels.items()
        }

    def rates_of(self, group: Group) -> tuple[float, ...]:
        """Return the learning rates that a group is tried with; a head in closed form has none, written as 0."""
        if self.heads[group[0]].closed_form:
            return (0.0,)
        return finer_rates(self.rates, self.rival(group[0]).finer)

    @property
    def settings(self) -> int:
        """The number of settings that validation chooses among: groups with each of their learning rates."""
        return sum(len(self.rates_of(group)) for group in self.groups())

    def trials(self, group: Group, rate: float) -> list[Trial]:
        """Return the selecting trials of a group at a learning rate, one for each seed."""
        return [Trial("select", *group, rate, seed) for seed in self.selection_seeds]


def depth_of(
    settings: HeadSettings, groups: Sequence[str], depth: str, *, scratch: bool = False, plain: bool = True
) -> str | None:
    """Return the `Trial.depth` of a requested depth for a head; None if the head has no such depth.

    Args:
      settings: of the head.
      groups: layer groups of the source network with its classification layer, bottom to top.
      depth: one of them, `none` or `all`.
      scratch: the network has random weights, none of which can be frozen.
      plain: whether it is fine-tuned plainly; methods have no effect where no pretrained layer trains.
    """
    kept = [group for group in groups if settings.keep_classifier or group not in CLASSIFICATION]
    if scratch:
        return NONE if depth == NONE else None
    if settings.closed_form and depth not in (ALL, kept[-1]):
        return None
    if not plain and depth in (ALL, kept[-1]):
        return None
    if depth == ALL:
        return kept[-1]
    return depth if depth == NONE or depth in kept else None


def make_grid(config: Config, groups: Sequence[str], *, pretrained: bool, classifier: bool) -> Grid:
    """Return the grid that a configuration asks for.

    Args:
      config: of the study; `config.study` says what to compare.
      groups: layer groups of the source network, bottom to top.
      pretrained: there are pretrained weights.
      classifier: the source network has a classification layer.

    Raises:
      UserError: a preset, head, setting or depth is unknown, or there is nothing to compare.
    """
    study, preset = resolved(config.study), preset_of(config.study)
    names = tuple(dict.fromkeys((*preset.heads, *study.heads)))
    own = study.own_heads
    if not names and not own:
        raise UserError(
            "There is nothing to compare: set config.study.preset (" + ", ".join(STUDIES) + "), "
            "config.study.heads or config.study.own_heads."
        )
    for name in names:
        if name not in (*PRESETS, SCRATCH):
            raise UserError(
                f"config.study.heads: {name!r} is unknown.{did_you_mean(name, (*PRESETS, SCRATCH), show=repr)} "
                f"Choices: {', '.join((*PRESETS, SCRATCH))}."
            )
    heads = {name: PRESETS["traditional"] if name == SCRATCH else head_settings(name) for name in names}
    for name, settings in own.items():
        if not re.fullmatch(r"[A-Za-z0-9_.]+", name):
            raise UserError(f"config.study.own_heads: the name {name!r} may have letters, digits, _ and . only.")
        if not isinstance(settings, Mapping):
            raise UserError(f"config.study.own_heads.{name} must be a dict of head settings, not {settings!r}.")
        values = {"preset": "traditional", **settings}
        heads[name] = head_settings(values.pop("preset"), values)
    heads = with_norms(heads, study.norms, study.scales)
    own = method_of(config)
    heads, rivals = with_methods(heads, (*preset.methods, *study.methods), study.strengths or preset.strengths, own)
    if SCRATCH in heads:
        check_pretrained(own, pretrained=False)
    if not pretrained and set(heads) != {SCRATCH}:
        raise UserError("A study compares ways to use pretrained weights, but config.weights is None. Give weights.")
    if not classifier:
        heads = {name: settings for name, settings in heads.items() if not settings.keep_classifier}
        if not heads:
            raise UserError(
                "The weights have no classification layer that could be kept, and every head of the study "
                "keeps it. Compare heads that replace it, such as traditional, deeper, wider."
            )
    labels = _labels(tuple(study.depths), groups, heads, rivals, 0 if study.minutes else preset.depths)
    depths = {
        name: tuple(depth for depth in (NONE, *groups) if depth in some.values()) for name, some in labels.items()
    }
    used = {label for some in labels.values() for label in some}
    rates = tuple(sorted({float(rate) for rate in study.learning_rates}))
    seeds = tuple(dict.fromkeys(study.seeds))
    if not rates or not seeds or rates[0] <= 0:
        raise UserError(
            "config.study.learning_rates and config.study.seeds must not be empty, and rates must be above 0."
        )
    return Grid(
        heads,
        depths,
        labels,
        tuple(label for label in (NONE, *groups, ALL) if label in used),
        rates,
        seeds,
        seeds[: study.selection_seeds or len(seeds)],
        rivals,
    )


def _labels(
    asked: tuple[str, ...],
    groups: Sequence[str],
    heads: Mapping[str, HeadSettings],
    rivals: Mapping[str, Rival],
    count: int,
) -> dict[str, dict[str, str]]:
    """Return, for every head, the requested depths and the topmost group that it freezes at each of them.

    Args:
      asked: `config.study.depths`.
      groups: layer groups of the source network, bottom to top.
      heads: their settings, by name.
      rivals: how they are fine-tuned, by name.
      count: how many depths to choose if none is requested; 0 for all of them.

    Raises:
      UserError: a depth is unknown, or a head has none of the depths.
    """
    backbone = [group for group in groups if group not in CLASSIFICATION]
    every, axis = (NONE, *backbone, ALL), (NONE, *groups)
    given = every if not asked or BLOCKS in asked else asked
    if not asked and count:
        chosen = [round(i * len(backbone) / (count - 1)) for i in range(count)]
        given = tuple(ALL if index == len(backbone) else axis[index] for index in chosen)
    elif given is every and not any(settings.keep_classifier for settings in heads.values()):
        given = (*every[:-2], ALL)  # For every head, freezing up to the topmost group is `all`.
    for depth in given:
        if depth not in (*axis, ALL):
            raise UserError(
                f"config.study.depths: {depth!r} is not a layer group of this network. "
                f"Choices: {', '.join((*axis, ALL))}."
            )
    labels = {}
    for name, settings in heads.items():
        scratch = name == SCRATCH
        how = {"scratch": scratch, "plain": rivals[name].method == PLAIN}
        found = {label: depth_of(settings, groups, label, **how) for label in ((NONE,) if scratch else given)}
        labels[name] = {label: depth for label, depth in found.items() if depth is not None}
        if not labels[name]:
            raise UserError(f"The head {name} has none of the depths config.study.depths={given}.")
    return labels
