"""Study presets: the fields of `config.study` that a preset sets, and the defaults of the others."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax_augtl.config.methods import METHODS, PLAIN
from flax_augtl.config.schema import Config
from flax_augtl.config.study_config import StudyConfig
from flax_augtl.errors import UserError

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


@dataclasses.dataclass(frozen=True)
class StudyPreset:
    """A preset. Fields of `config.study` that are set override it.

    Attributes:
      heads: names of heads; `config.study.heads` and `config.study.own_heads` are added to them.
      seeds: number of seeds.
      minutes: the time budget; 0 for none.
      methods: methods that every head is tried with; `config.study.methods` are added to them.
      strengths: factors of their strength.
      depths: number of evenly spread depths if there is no time budget; 0 for every depth.
    """

    heads: tuple[str, ...] = ()
    seeds: int = 6
    minutes: float = 0.0
    depths: int = 0
    methods: tuple[str, ...] = ()
    strengths: tuple[float, ...] = ()


STUDIES: Mapping[str, StudyPreset] = {
    "quick": StudyPreset(("traditional", "kept_deeper"), seeds=1, minutes=10.0, depths=4),
    "paper": StudyPreset(PAPER),
    "controls": StudyPreset(CONTROLS),
    "full": StudyPreset((*CONTROLS, "kept_deeper_batch", "kept_deeper2", SCRATCH)),
    "rivals": StudyPreset(
        ("traditional",), methods=tuple(name for name in METHODS if name != PLAIN), strengths=(0.333, 1.0, 3.0)
    ),
}


def preset_of(study: StudyConfig) -> StudyPreset:
    """Return the preset of a study; for "", one without heads."""
    return STUDIES.get(study.preset, StudyPreset())


@dataclasses.dataclass(frozen=True)
class ResolvedStudy(StudyConfig):
    """`config.study` with a value for every field that the preset can set."""

    minutes: float = 0.0  # pyright: ignore[reportIncompatibleVariableOverride]  # A frozen field only gets narrower.
    heads: tuple[str, ...] = ()
    depths: tuple[str, ...] = ()
    learning_rates: tuple[float, ...] = LEARNING_RATES
    seeds: tuple[int, ...] = (0,)
    selection_seeds: int = 0
    search: str = GRID
    finals: str = "winners"
    views: int = VIEWS


def resolved(study: StudyConfig) -> ResolvedStudy:
    """Return `config.study` with a value for every field.

    Raises:
      UserError: fields contradict each other.
    """
    preset, search, minutes = preset_of(study), study.search, study.minutes
    if search in (GRID, HALVING) and minutes:
        raise UserError(
            f"config.study.search={search!r} keeps no time budget, but config.study.minutes={minutes:g}. Set "
            "one of the two only."
        )
    if minutes is None:
        minutes = 0.0 if search in (GRID, HALVING) else preset.minutes
    if search == BUDGET and not minutes:
        raise UserError("config.study.search='budget' needs a time budget: set config.study.minutes above 0.")
    selecting = study.selection_seeds or 0
    if study.seeds is not None and selecting > len(study.seeds):
        raise UserError(
            f"config.study.selection_seeds={selecting} is above the number of config.study.seeds="
            f"{tuple(study.seeds)}. Give more seeds, or lower it."
        )
    given = {field.name: getattr(study, field.name) for field in dataclasses.fields(study)}
    decided = {
        "minutes": float(minutes),
        "search": search or (BUDGET if minutes else GRID),
        "selection_seeds": selecting,
        "seeds": tuple(range(max(preset.seeds, selecting))) if study.seeds is None else study.seeds,
        "learning_rates": LEARNING_RATES if study.learning_rates is None else study.learning_rates,
        "finals": study.finals or "winners",
        "views": VIEWS if study.views is None else study.views,
        "heads": study.heads or (),
        "depths": study.depths or (),
    }
    return ResolvedStudy(**{**given, **decided})


def resolved_config(config: Config) -> Config:
    """Return a configuration whose `study` has a value for every field; see `resolved`."""
    return dataclasses.replace(config, study=resolved(config.study))


def as_begun(study: StudyConfig, old: Mapping[str, Any]) -> StudyConfig:
    """Return `config.study` with which to resume a study; a version without time budgets had other seeds.

    Args:
      study: the study that the user asked for, after `added_fields.continued`.
      old: the contents of config.json in the study's directory.
    """
    if "minutes" in old.get("study", {}):
        return study
    seeds = tuple(range(preset_of(study).seeds)) if study.seeds is None else study.seeds
    selecting = min(study.selection_seeds, len(seeds)) if study.selection_seeds else study.selection_seeds
    return dataclasses.replace(study, seeds=seeds, selection_seeds=selecting)
