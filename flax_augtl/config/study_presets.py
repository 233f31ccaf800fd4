"""Study presets: which fields of `config.study` a preset decides, and what the others are where they are not given."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

PAPER = ("traditional", "kept", "kept_deeper", "kept_deeper2")
CONTROLS = (
    "traditional",
    "traditional_l2",
    "kept_plain",
    "kept",
    "kept_deeper",
    "deeper",
    "wider",
    "random_deeper",
    "shuffled_deeper",
)
SCRATCH = "scratch"
LEARNING_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
VIEWS = 4
GRID, HALVING, BUDGET = "grid", "halving", "budget"
SEARCHES, FINALS = (GRID, HALVING, BUDGET), ("winners", "depths")


@dataclasses.dataclass(frozen=True)
class StudyPreset:
    """What a preset decides. A field of `config.study` that is given takes the place of what it decides.

    Attributes:
      heads: names of heads; `config.study.heads` and `config.study.own_heads` are added to them.
      seeds: their number.
      minutes: the time budget; 0 for none.
      depths: number of depths, spread evenly, without a time budget; 0 for every depth.
    """

    heads: tuple[str, ...] = ()
    seeds: int = 6
    minutes: float = 0.0
    depths: int = 0


STUDIES: Mapping[str, StudyPreset] = {
    "quick": StudyPreset(("traditional", "kept_deeper"), seeds=1, minutes=10.0, depths=4),
    "paper": StudyPreset(PAPER),
    "controls": StudyPreset(CONTROLS),
    "full": StudyPreset((*CONTROLS, "kept_deeper_batch", "kept_deeper2", SCRATCH)),
}


def preset_of(study: Mapping[str, Any]) -> StudyPreset:
    """Return the preset of a study; one that decides nothing but defaults for "".

    Raises:
      ValueError: the preset is unknown.
    """
    if study["preset"] and study["preset"] not in STUDIES:
        raise ValueError(f"config.study.preset={study['preset']!r} is not one of {', '.join(STUDIES)}.")
    return STUDIES.get(study["preset"], StudyPreset())


def resolved(config: ConfigDict) -> ConfigDict:
    """Return a copy of a configuration in which every field of `config.study` has a value.

    Raises:
      ValueError: a field that is given is unknown, or does not go with another one.
    """
    config = copy.deepcopy(config)
    study, preset = config.study, preset_of(config.study)
    search, minutes = study.search, study.minutes
    if search is not None and search not in SEARCHES:
        raise ValueError(f"config.study.search={search!r} is not one of {', '.join(SEARCHES)}.")
    if search in (GRID, HALVING) and minutes:
        raise ValueError(
            f"config.study.search={search!r} keeps no time budget, but config.study.minutes={minutes:g}. Set "
            "one of the two only."
        )
    if minutes is None:
        minutes = 0.0 if search in (GRID, HALVING) else preset.minutes
    if search == BUDGET and not minutes:
        raise ValueError("config.study.search='budget' needs a time budget: set config.study.minutes above 0.")
    selecting = study.selection_seeds or 0
    if study.seeds is not None and selecting > len(study.seeds):
        raise ValueError(
            f"config.study.selection_seeds={selecting} is above the number of config.study.seeds="
            f"{tuple(study.seeds)}. Give more seeds, or lower it."
        )
    decided = {
        "minutes": float(minutes),
        "search": search or (BUDGET if minutes else GRID),
        "selection_seeds": selecting,
        "seeds": tuple(range(max(preset.seeds, selecting))) if study.seeds is None else tuple(study.seeds),
        "learning_rates": LEARNING_RATES if study.learning_rates is None else tuple(study.learning_rates),
        "finals": study.finals or "winners",
        "views": VIEWS if study.views is None else study.views,
        "heads": tuple(study.heads or ()),
        "depths": tuple(study.depths or ()),
    }
    if decided["finals"] not in FINALS:
        raise ValueError(f"config.study.finals={study.finals!r} is not one of {', '.join(FINALS)}.")
    study.update(decided)
    return config


def as_begun(config: ConfigDict, old: Mapping[str, Any]) -> ConfigDict:
    """Return the configuration with which a study of a version without time budgets goes on, with the seeds of then.

    Args:
      config: the one that was asked for, `added_fields.continued`; it is changed and returned.
      old: the contents of the config.json in the study's directory.
    """
    study = config.study
    if "minutes" in old.get("study", {}):
        return config
    if study.seeds is None:
        study.seeds = tuple(range(preset_of(study).seeds))
    if study.selection_seeds:
        study.selection_seeds = min(study.selection_seeds, len(study.seeds))
    return config
