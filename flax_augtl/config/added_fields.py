"""Fields added to the configuration after the first version, and what their absence from an older config.json means.

A run or study of an earlier version keeps the behaviour of that version when it is resumed. For each added field, the
schema has the value with which the program does what the versions without the field did.
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
    """Return the contents of a config.json with the added fields that it lacks, which get the behaviour of its version."""
    values = as_written(old)
    for field, added in ADDED.items():
        *parents, name = field.split(".")
        place: dict[str, Any] | None = values
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.setdefault(name, added.absent)
    return values


def continued(config: Config, old: Mapping[str, Any]) -> Config:
    """Return the configuration with which to resume a run.

    Fields that `old` lacks and that have today's default in `config` get the behaviour of the version that wrote `old`.

    Args:
      config: the configuration that the user gave.
      old: the contents of config.json in the run directory.
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
    """Return the new contents of a config.json, without the added fields that `old` lacks.

    If they were written, they would differ from today's defaults, and the same command could not resume the run.

    Args:
      values: the new contents.
      old: the present contents, of the same run.
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
