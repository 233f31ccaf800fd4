"""Checks of a configuration, which find all of its errors."""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax_augtl.config import heads, methods, networks
from flax_augtl.config.durations import DURATIONS, given_unit
from flax_augtl.config.field import Field, fields_of, sections_of
from flax_augtl.config.nearest import did_you_mean
from flax_augtl.config.schema import LARGEST, Config
from flax_augtl.config.value_types import is_a, shown
from flax_augtl.errors import UserError


def problems_of(values: Mapping[str, Any], kind: type = Config, prefix: str = "") -> list[str]:
    """Return all errors of a configuration, or of a section of one, as sentences.

    Args:
      values: the given fields; the others have their defaults.
      kind: the dataclass of the configuration or section.
      prefix: what to put in front of the fields' names in messages, such as `data.`.
    """
    own = {field.name: field for field in fields_of(kind)}
    found = _unknown(values, kind, prefix)
    for name, field in own.items():
        value = _value(values, name)
        if value is not None and (problem := _problem(f"config.{prefix}{name}", value, field)):
            found.append(problem)
        elif value is None and _is_given(values, name) and not field.optional:
            found.append(f"config.{prefix}{name} cannot be None: give it a {field.kind}.")
    if kind is Config and not found:
        found += [sentence for check in _TOGETHER if (sentence := _raised(check, values))]
    elif kind is Config:
        found += [sentence for check in _ALONE if (sentence := _raised(check, values))]
    return found


def _unknown(values: Mapping[str, Any], kind: type, prefix: str) -> list[str]:
    """Return a sentence with the nearest name for each field that does not exist."""
    sections, found = sections_of(kind), []
    known = [field.name for field in fields_of(kind) if "." not in field.name] + list(sections)
    for name, value in values.items():
        if name not in known:
            found.append(unknown_field(f"{prefix}{name}", [f"{prefix}{each}" for each in known]))
        elif name in sections and isinstance(value, Mapping):
            found += _unknown(value, sections[name], f"{prefix}{name}.")
        elif name in sections:
            found.append(f"config.{prefix}{name} is a group of fields and must be a mapping, not {shown(value)}.")
    return found


def unknown_field(name: str, known: Sequence[str]) -> str:
    """Return a sentence that a field does not exist, with the nearest of the `known` names."""
    return f"There is no field config.{name}." + did_you_mean(name, known, show=lambda near: f"config.{near}")


def _problem(name: str, value: Any, field: Field) -> str | None:
    """Return an error of a single value, None if it has none."""
    declared = field.setting
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name}={value} is not a finite number."
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and abs(value) > LARGEST and not name.endswith("seed"):
        return f"{name}={value} is above {LARGEST}."
    if (item := field.several) in (int, float):
        number: Any = numbers.Integral if item is int else numbers.Real
        right = isinstance(value, (tuple, list)) and all(
            isinstance(each, number) and not isinstance(each, bool) and abs(each) < math.inf for each in value
        )
        return None if right else f"{name}={value!r} must be {'whole' if item is int else 'finite'} numbers."
    if not is_a(value, field.kind):
        return f"{name}={value!r} must be a {field.kind.removesuffix(' or null')}."
    if declared.has_range and not declared.holds(value):
        return f"{name}={value} must be {declared.range_text()}."
    if name == "config.compute_dtype" and value in ("float16", "half"):
        return (
            f"{name}={value!r} is not supported: its numbers end at 65504 and lose small gradients, which calls for "
            "scaling the loss. Set bfloat16 instead: it has the range of float32, and is as fast."
        )
    if declared.choices and value not in declared.choices:
        hint = did_you_mean(value, declared.choices, show=repr)
        return f"{name}={value!r} is not one of {', '.join(filter(None, declared.choices))}.{hint}"
    return None


def _head(values: Mapping[str, Any]) -> None:
    head = dict(values.get("head", {}))
    heads.head_settings(head.pop("preset", "kept_deeper"), head)


def _method(values: Mapping[str, Any]) -> None:
    method = dict(values.get("method", {}))
    methods.method_settings(method.pop("preset", methods.PLAIN), method)


def _network(values: Mapping[str, Any]) -> None:
    networks.find(values.get("network", "resnet18"))


def _freeze(values: Mapping[str, Any]) -> None:
    network, freeze = values.get("network", "resnet18"), values.get("freeze", "none")
    if network in networks.NETWORKS:
        entry = networks.NETWORKS[network]
        choices = (networks.NONE, *entry.groups, networks.ALL)
        if freeze not in (*choices, *entry.blocks):
            raise UserError(
                f"config.freeze={freeze!r} is not a layer group of this network."
                f"{did_you_mean(freeze, (*choices, *entry.blocks), show=repr)} Choices: {', '.join(choices)}."
            )


def _lengths(values: Mapping[str, Any]) -> None:
    for group, name in DURATIONS:
        given_unit(values.get(group, {}) if group else values, name)


def _crop_scale(values: Mapping[str, Any]) -> None:
    scale = values.get("data", {}).get("crop_scale", (0.25, 1.0))
    if len(scale) != 2:
        raise UserError(
            f"config.data.crop_scale={tuple(scale)} must be two shares of the area, the least and the most."
        )


# Checks that also work while other fields are wrong, and checks that need the right type of all fields.
_ALONE: tuple[Callable[[Mapping[str, Any]], None], ...] = (_head, _method, _network, _freeze)
_TOGETHER = (*_ALONE, _lengths, _crop_scale)


def _raised(check: Callable[[Mapping[str, Any]], None], values: Mapping[str, Any]) -> str | None:
    """Return the message of a check's UserError; None if there is none, or if a type is wrong, which others report."""
    try:
        check(values)
    except UserError as error:
        return str(error)
    except (TypeError, ValueError, AttributeError):
        return None
    return None


def _value(values: Mapping[str, Any], name: str) -> Any:
    value: Any = values
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _is_given(values: Mapping[str, Any], name: str) -> bool:
    *parents, last = name.split(".")
    place = _value(values, ".".join(parents)) if parents else values
    return isinstance(place, Mapping) and last in place
