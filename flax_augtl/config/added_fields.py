"""Fields that came into the configuration after the first version: what an older config.json means by their absence.

A run or study that an earlier version wrote goes on as it began. The schema says of each added field which value has the
effect of the versions without it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax_augtl.config.convert import as_written, plain
from flax_augtl.config.field import Setting
from flax_augtl.config.schema import FIELDS, Config

# By dotted name, such as "data.split_seed".
ADDED: Mapping[str, Setting] = {name: field.setting for name, field in FIELDS.items() if field.setting.added}


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


def continued(config: Config, old: Mapping[str, Any]) -> Config:
    """Return the configuration with which a run that `old` describes goes on.

    Fields that `old` lacks and that `config` leaves at today's default get the value that they had when the run began.

    Args:
      config: the one that was asked for.
      old: the contents of the config.json in the run's directory.
    """
    changes: dict[str, dict[str, Any]] = {}
    for field, added in ADDED.items():
        section, _, name = field.rpartition(".")
        there = old.get(section, {}) if section else old
        here = getattr(config, section) if section else config
        if isinstance(there, Mapping) and name not in there and getattr(here, name) == added.default:
            changes.setdefault(section, {})[name] = added.absent
    top = changes.pop("", {})
    sections = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in changes.items()}
    return dataclasses.replace(config, **top, **sections)


def still_lacking(values: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to write into a config.json in place of `old`, without the fields that `old` lacks for its age.

    Written out, they would differ from today's defaults, and the same command would be refused at its next start.

    Args:
      values: the contents of the new config.json.
      old: the contents of the present one, of the same run.
    """
    values = plain(values)
    for field, added in ADDED.items():
        *parents, name = field.split(".")
        there, here = old, values
        for parent in parents:
            there = there.get(parent, {}) if isinstance(there, Mapping) else {}
            here = here.get(parent, {})
        if isinstance(there, Mapping) and name not in there and name in here and _as_tuple(here[name]) == added.absent:
            del here[name]
    return values


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
