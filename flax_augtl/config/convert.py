"""Conversions between ConfigDict, JSON and the typed configuration."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict, config_dict

from flax_augtl.config.check import problems_of
from flax_augtl.config.data_config import DataConfig
from flax_augtl.config.field import ANY_OF_THREE, fields_of, sections_of
from flax_augtl.config.schema import Config
from flax_augtl.errors import ConfigError

_Kind = TypeVar("_Kind")


def default_config() -> ConfigDict:
    """Return the defaults of all fields as a locked ConfigDict, which raises if a field does not exist."""
    return _default_dict(Config).lock()


def _default_dict(kind: type) -> ConfigDict:
    config = ConfigDict()
    sections = sections_of(kind)
    own = {field.name: field for field in fields_of(kind)}
    for name in (field.name for field in dataclasses.fields(kind)):  # pyright: ignore[reportArgumentType]
        if name in sections:
            config[name] = _default_dict(sections[name])
            continue
        default, field = own[name].setting.default, own[name]
        if isinstance(default, dict):
            config[name] = ConfigDict()
        elif default is None:
            # The command line could not override a plain None.
            config[name] = config_dict.placeholder(tuple if field.several else _one_type(field.kind))
        elif field.kind == ANY_OF_THREE:
            config[name] = config_dict.FieldReference(default, field_type=object)
        else:
            config[name] = default
    return config


def _one_type(kind: str) -> type:
    names = {"whole number": int, "number": float, "text": str, "true or false": bool}
    return names[kind.removesuffix(" or null")]


def typed(config: ConfigDict | Mapping[str, Any]) -> Config:
    """Return a configuration as typed values.

    Args:
      config: all fields, or some of them; the others have their defaults.

    Raises:
      ConfigError: it has errors; the message lists all of them.
    """
    return _checked(Config, plain(config), "")


def typed_data(data: DataConfig | Mapping[str, Any]) -> DataConfig:
    """Return `config.data`, or a mapping with some of its fields, as typed values.

    Raises:
      ConfigError: it has errors; the message lists all of them.
    """
    return data if isinstance(data, DataConfig) else _checked(DataConfig, plain(data), "data.")


def _checked(kind: type[_Kind], values: dict[str, Any], prefix: str) -> _Kind:
    values = as_written(values) if not prefix else as_written({"data": values})["data"]
    if found := problems_of(values, kind, prefix):
        raise errors_in(found)
    return _built(kind, values)


def errors_in(problems: list[str]) -> ConfigError:
    """Return an error that lists the problems of a configuration, one per line."""
    if len(problems) == 1:
        return ConfigError(problems[0])
    lines = "\n".join(f"  {problem}" for problem in problems)
    return ConfigError(f"The configuration has {len(problems)} errors:\n{lines}")


def from_json(values: Mapping[str, Any]) -> Config:
    """Return the contents of a config.json as typed values.

    Unknown fields are dropped, because another version of the program may have written them.

    Raises:
      ConfigError: fields have the wrong type or are out of range; the message lists all of them.
    """
    return _checked(Config, _known(as_written(values), Config), "")


def _known(values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Return the values of the fields that a configuration dataclass has."""
    sections, names = sections_of(kind), {field.name for field in dataclasses.fields(kind)}
    return {
        name: _known(value, sections[name]) if name in sections and isinstance(value, Mapping) else value
        for name, value in values.items()
        if name in names
    }


def _built(kind: type[_Kind], values: Mapping[str, Any]) -> _Kind:
    """Return a dataclass with the values of a mapping, which have been checked; unknown fields are ignored."""
    sections, given = sections_of(kind), {}
    for field in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        if field.name in values:
            value = values[field.name]
            given[field.name] = _built(sections[field.name], value) if field.name in sections else _frozen(value)
    return kind(**given)


def _frozen(value: Any) -> Any:
    """Return a value with tuples instead of lists; mappings are not changed."""
    return tuple(_frozen(each) for each in value) if isinstance(value, (list, tuple)) else value


def to_json(config: Config) -> dict[str, Any]:
    """Return a configuration as JSON values for config.json, in which tuples are lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def to_config_dict(config: Config) -> ConfigDict:
    """Return a configuration as a locked ConfigDict, such as `Run.config`."""
    made = default_config()
    with made.unlocked(), made.ignore_type():
        for name, value in _leaves(config, ""):
            *parents, last = name.split(".")
            place: Any = made
            for parent in parents:
                place = place[parent]
            place[last] = ConfigDict(value) if isinstance(value, Mapping) else value
    return made


def _leaves(part: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def plain(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping, and the mappings in it, as dicts without references, and paths as strings."""
    values = config.to_dict() if isinstance(config, ConfigDict) else config
    return {name: _plain_value(value) for name, value in values.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, (Mapping, ConfigDict)):
        return plain(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def as_written(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of a config.json in today's notation."""
    values = plain(values)
    data = values.get("data")
    if isinstance(data, dict) and isinstance(data.get("flip"), bool):
        data["flip"] = "horizontal" if data["flip"] else "none"  # The first version had true and false only.
    return values
