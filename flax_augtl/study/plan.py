"""What a study compares: heads × freeze depths × learning rates × seeds, as cells with stable names."""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from flax_augtl.head import PRESETS, HeadSettings, head_settings
from flax_augtl.network import CLASSIFICATION

SCRATCH = "scratch"
NONE, ALL, BLOCKS = "none", "all", "blocks"
PAPER = ("traditional", "kept", "kept_deeper", "kept_deeper2")
CONTROLS = ("traditional", "traditional_l2", "kept_plain", "kept", "kept_deeper", "deeper", "wider", "random_deeper",
            "shuffled_deeper")
# Heads, number of depths (0 = every one) and of seeds (0 = those of the config) of each preset.
STUDIES: Mapping[str, tuple[tuple[str, ...], int, int]] = {
    "quick": (("traditional", "kept_deeper"), 4, 1),
    "paper": (PAPER, 0, 0),
    "controls": (CONTROLS, 0, 0),
    "full": ((*CONTROLS, "kept_deeper_batch", "kept_deeper2", SCRATCH), 0, 0),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
      stage: `select` (validation chooses) or `final` (trained on training and validation data, and tested).
      head: its name in the study.
      depth: the topmost frozen layer group, or `none`.
      classifier_rate: at which the kept classification layer learns; controls are tried with both.
      learning_rate: of pretrained layers.
      seed: of split, initialisation and order.
      steps: length of the training, None for the config's own.
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
        """A name that is the same in every start of the study, and a file name."""
        rate = "" if self.classifier_rate == "pretrained" else "-new"
        steps = "" if self.steps is None else f"-{self.steps}"
        return f"{self.stage}-{self.head}-{self.depth}{rate}-{self.learning_rate:g}-{self.seed}{steps}"

    @property
    def group(self) -> tuple[str, str, str]:
        """Head, depth and classifier rate: what has a grid of learning rates of its own."""
        return self.head, self.depth, self.classifier_rate


@dataclasses.dataclass(frozen=True)
class Grid:
    """What a study compares.

    Attributes:
      heads: settings of every head, by name; `scratch` stands for random weights under the traditional head.
      depths: freeze depths of every head, from `none` upwards.
      axis: all of these depths, bottom to top.
      rates: learning rates, ascending.
      seeds: paired over all heads.
      selection_seeds: those of them that choices are made with.
    """

    heads: Mapping[str, HeadSettings]
    depths: Mapping[str, tuple[str, ...]]
    axis: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    selection_seeds: tuple[int, ...]

    def groups(self) -> list[tuple[str, str, str]]:
        """Return every (head, depth, classifier rate) that is tried."""
        found = []
        for name, settings in self.heads.items():
            # Held to the rate of pretrained layers alone, a control's stand-in would be rigged (METHOD.md §4).
            control = settings.keep_classifier and settings.classifier_init != "pretrained"
            for depth in self.depths[name]:
                rates = ("pretrained", "new") if control and depth not in CLASSIFICATION else (settings.classifier_rate,)
                found += [(name, depth, rate) for rate in rates]
        return found

    def cells(self, group: tuple[str, str, str], rate: float) -> list[Cell]:
        """Return the selecting cells of a group at a learning rate, one a seed."""
        return [Cell("select", *group, rate, seed) for seed in self.selection_seeds]


def depth_of(settings: HeadSettings, groups: Sequence[str], depth: str, *, scratch: bool = False) -> str | None:
    """Return the name of a freeze depth for a head: its topmost group for `all`; None where the head has no such depth.

    Args:
      settings: of the head.
      groups: layer groups of the source network with its classification layer, bottom to top.
      depth: one of them, `none` or `all`.
      scratch: the network has random weights, of which none can be frozen.
    """
    kept = [group for group in groups if settings.keep_classifier or group not in CLASSIFICATION]
    if scratch:
        return NONE if depth == NONE else None
    if depth == ALL:
        return kept[-1]
    return depth if depth == NONE or depth in kept else None


def make_grid(config: ConfigDict, groups: Sequence[str], *, pretrained: bool, classifier: bool) -> Grid:
    """Return the grid that a configuration asks for.

    Args:
      config: see configs/common.py, `config.study`.
      groups: layer groups of the source network, bottom to top.
      pretrained: there are pretrained weights.
      classifier: the source network has a classification layer.

    Raises:
      ValueError: an unknown preset, head, setting or depth, or nothing to compare.
    """
    study = config.study
    if study.preset and study.preset not in STUDIES:
        raise ValueError(f"config.study.preset={study.preset!r} is not one of {', '.join(STUDIES)}.")
    names, count, seeds = STUDIES.get(study.preset, ((), 0, 0))
    names = tuple(dict.fromkeys((*names, *study.heads)))
    own = study.own_heads.to_dict()
    if not names and not own:
        raise ValueError("There is nothing to compare: set config.study.preset (" + ", ".join(STUDIES) + "), "
                         "config.study.heads or config.study.own_heads.")
    for name in names:
        if name not in (*PRESETS, SCRATCH):
            near = difflib.get_close_matches(str(name), (*PRESETS, SCRATCH), 1)
            raise ValueError(f"config.study.heads: {name!r} is unknown{f'; did you mean {near[0]!r}?' if near else '.'} "
                             f"Choices: {', '.join((*PRESETS, SCRATCH))}.")
    heads = {name: PRESETS["traditional"] if name == SCRATCH else head_settings(name) for name in names}
    for name, settings in own.items():
        if not re.fullmatch(r"[A-Za-z0-9_.]+", name):
            raise ValueError(f"config.study.own_heads: the name {name!r} may have letters, digits, _ and . only.")
        if not isinstance(settings, Mapping):
            raise ValueError(f"config.study.own_heads.{name} must be a dict of head settings, not {settings!r}.")
        values = {"preset": "traditional", **settings}
        heads[name] = head_settings(values.pop("preset"), values)
    if not pretrained and set(heads) != {SCRATCH}:
        raise ValueError("A study compares ways to use pretrained weights, but config.weights is None. Give weights.")
    if not classifier:
        heads = {name: settings for name, settings in heads.items() if not settings.keep_classifier}
        if not heads:
            raise ValueError("The weights have no classification layer that could be kept, and every head of the study "
                             "keeps it. Compare heads that replace it, such as traditional, deeper, wider.")
    backbone = [group for group in groups if group not in CLASSIFICATION]
    axis = (NONE, *groups)
    given = tuple(study.depths)
    if not given and count:
        chosen = [round(i * len(backbone) / (count - 1)) for i in range(count)]
        given = tuple(ALL if index == len(backbone) else axis[index] for index in chosen)
    given = (*axis, ALL) if not given or BLOCKS in given else given
    for depth in given:
        if depth not in (*axis, ALL):
            raise ValueError(f"config.study.depths: {depth!r} is not a layer group of this network. "
                             f"Choices: {', '.join((*axis, ALL))}.")
    depths = {}
    for name, settings in heads.items():
        found = {depth_of(settings, groups, depth, scratch=name == SCRATCH) for depth in given} - {None}
        if name == SCRATCH:
            found = {NONE}
        depths[name] = tuple(depth for depth in axis if depth in found)
        if not depths[name]:
            raise ValueError(f"The head {name} has none of the depths config.study.depths={given}.")
    used = {depth for some in depths.values() for depth in some}
    rates = tuple(sorted({float(rate) for rate in study.learning_rates}))
    all_seeds = tuple(study.seeds)[:seeds or None]
    if not rates or not all_seeds or rates[0] <= 0:
        raise ValueError("config.study.learning_rates and config.study.seeds must not be empty, nor a rate 0 or less.")
    some = int(study.selection_seeds) or len(all_seeds)
    return Grid(heads, depths, tuple(depth for depth in axis if depth in used), rates, all_seeds, all_seeds[:some])
