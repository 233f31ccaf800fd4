"""Fields that came into the configuration after the first version: what an older config.json means by their absence.

A run or study that an earlier version wrote goes on as it began. A new field whose default changes what a run is needs a
row in `ADDED`; every other new field needs one as well, so that the same command still continues an older run.
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
    "study.minutes": Added(absent=0.0, default=None),
}


def filled(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of a config.json, with the fields that it is too old to have set to what they were then."""
    values = _copied(old)
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


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) if isinstance(value, Mapping) else value for name, value in values.items()}
