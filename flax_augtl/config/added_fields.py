"""Fields that came into the configuration after the first version: what an older config.json means by their absence.

A run or study that an earlier version wrote goes on as it began. A new field whose default changes what a run is needs
a row in `ADDED`; every other new field needs one as well, so that the same command still continues an older run.
"""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class Added(NamedTuple):
    """A field that older configurations lack.

    Attributes:
      absent: the value that has the effect of the versions without the field.
      default: its default today, as in configs/common.py.
    """

    absent: Any
    default: Any


# By dotted name, such as "data.split_seed".
ADDED: Mapping[str, Added] = {
    # None: the test split is carved by each run's seed.
    "data.split_seed": Added(None, 0),
    "data.group": Added(None, None),
    "data.folds": Added(0, 0),
    "data.fold": Added(None, None),
    "data.path_column": Added(absent=None, default=None),
    "data.label_column": Added(absent=None, default=None),
    "data.split_column": Added(absent=None, default=None),
    "data.list_rules": Added(absent=1, default=2),
    "data.folder_rules": Added(1, 2),
    "weights_entry": Added(absent="raw", default=None),
    "data.near_copies": Added("ignore", "warn"),
    "data.on_conflict": Added("ignore", None),
    "data.blur": Added(absent=0.0, default=0.0),
    "data.rotate": Added(absent=0.0, default=0.0),
    "data.max_pixels": Added(absent=178_956_970, default=178_956_970),
    "preprocessing.resize": Added(absent=None, default=None),
    "study.minutes": Added(absent=0.0, default=None),
}


def as_written(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of a config.json, with values that mean the same written the same way."""
    values = _copied(values)
    data = values.get("data")
    if isinstance(data, dict) and isinstance(data.get("flip"), bool):
        data["flip"] = "horizontal" if data["flip"] else "none"  # Before there were other flips, it was true or false.
    return values


def filled(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of a config.json, with the fields that it is too old to have set to what they were then."""
    values = as_written(old)
    for field, added in ADDED.items():
        *parents, name = field.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.setdefault(name, added.absent)
    return values


def continued(config: ConfigDict, old: Mapping[str, Any]) -> ConfigDict:
    """Return the configuration with which a run that `old` describes goes on.

    Fields that `old` lacks and that `config` leaves at today's default get the value that they had when the run began.

    Args:
      config: the one that was asked for; it is not changed.
      old: the contents of the config.json in the run's directory.
    """
    config = copy.deepcopy(config)
    for field, added in ADDED.items():
        *parents, name = field.split(".")
        there, here = old, config
        for parent in parents:
            there = there.get(parent, {}) if isinstance(there, Mapping) else {}
            here = here.get(parent, ConfigDict())
        if name not in there and name in here and _plain(here[name]) == added.default:
            with here.ignore_type():
                here[name] = added.absent
    return config


def still_lacking(values: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to write into a config.json in place of `old`, without the fields that `old` lacks for its age.

    Written out, they would differ from today's defaults, and the same command would be refused at its next start.

    Args:
      values: the contents of the new config.json.
      old: the contents of the present one, of the same run.
    """
    values = _copied(values)
    for field, added in ADDED.items():
        *parents, name = field.split(".")
        there, here = old, values
        for parent in parents:
            there = there.get(parent, {}) if isinstance(there, Mapping) else {}
            here = here.get(parent, {})
        if isinstance(there, Mapping) and name not in there and name in here and _plain(here[name]) == added.absent:
            del here[name]
    return values


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) if isinstance(value, Mapping) else value for name, value in values.items()}
