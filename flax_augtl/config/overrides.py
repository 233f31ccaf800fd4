"""Overrides of configuration fields on the command line: `None`, lengths in another unit, and helpful errors.

ml_collections parses `--config.FIELD=VALUE`. It does not know `None`, and keeps two units of the same length.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from flax_augtl.config.check import unknown_field
from flax_augtl.config.durations import DURATIONS, UNITS, field_of
from flax_augtl.config.nearest import did_you_mean, nearest
from flax_augtl.config.schema import FIELDS, KINDS
from flax_augtl.errors import UserError

# The field that a user means who sets a group of fields to a word.
_MAIN_FIELD = {"head": "preset", "schedule": "name", "data": "name", "features": "cache", "study": "preset"}
# The names that other programs have for a field.
_SHORT = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "batch": "batch_size",
    "wd": "weight_decay",
    "arch": "network",
    "model": "network",
    "num_epochs": "epochs",
}
_OVERRIDE = re.compile(r"--?config\.([\w.]+)(?:=(.*))?", re.DOTALL)


def take_out_none(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Remove `--config.FIELD=None` from the command line.

    Args:
      arguments: the command line.

    Returns:
      The other arguments, and the fields to set to None.

    Raises:
      UserError: one of the fields cannot be None.
    """
    left: list[str] = []
    fields: list[str] = []
    skip = False
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=True):
        match = _OVERRIDE.fullmatch(argument)
        value = None if match is None else match[2] if "=" in argument else after
        if skip:
            skip = False
        elif match is not None and value == "None":
            skip = "=" not in argument
            fields.append(match[1])
        else:
            left.append(argument)
    for field in fields:
        kind = KINDS.get(field, "")
        if kind and not kind.endswith("or null"):
            raise UserError(
                f"--config.{field}=None: this field cannot be None; give it a {kind}"
                + (', or the word "none".' if kind == "text" else ".")
            )
    return left, fields


def take_out_wrong(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Remove invalid settings from the command line, so that all of them are reported together.

    ml_collections would stop at the first one.

    Args:
      arguments: the command line.

    Returns:
      The other arguments, and a sentence for every `--config.FIELD=VALUE` whose field does not exist or whose value has
      the wrong type.
    """
    left: list[str] = []
    sentences: list[str] = []
    for argument in arguments:
        match = _OVERRIDE.fullmatch(argument)
        sentence = match and _wrong(match[1], match[2])
        if sentence:
            sentences.append(sentence)
        else:
            left.append(argument)
    return left, sentences


def _wrong(field: str, value: str | None) -> str | None:
    if field.split(".")[0] == "variants" or field.startswith("study.own_heads"):
        return None  # Users name the fields of these.
    if field not in FIELDS:
        return None if field in _groups() else unknown_field(field, list(FIELDS))
    kind = FIELDS[field].kind.removesuffix(" or null")
    convert = {"whole number": int, "number": float}.get(kind)
    if convert is None or value is None or value == "None":
        return None
    try:
        convert(value)
    except ValueError:
        return f"config.{field}={value!r} must be a {kind}."
    return None


def _groups() -> set[str]:
    return {name.split(".")[0] for name in FIELDS if "." in name} | {*_MAIN_FIELD}


def check_groups(arguments: Sequence[str]) -> None:
    """Raise UserError if the command line sets a group of fields, such as `config.head`, as if it were a field."""
    groups = _groups()
    for argument in arguments:
        match = _OVERRIDE.fullmatch(argument)
        if match and match[1] in groups and not (match[2] or "").lstrip().startswith("{"):
            group, value = match[1], match[2] or "VALUE"
            fields = [name.removeprefix(f"{group}.") for name in KINDS if name.startswith(f"{group}.")]
            likely = _MAIN_FIELD.get(group) or fields[0]
            raise UserError(
                f"--config.{group} is a group of fields and has no value of its own. To set its {likely}, "
                f"write --config.{group}.{likely}={value}."
                + (f" Its fields: {', '.join(sorted(fields))}." if fields else "")
            )


def clear(config: ConfigDict, field: str) -> None:
    """Set a field to None, whatever its type."""
    *parents, name = field.split(".")
    place: Any = config
    for parent in parents:
        place = place[parent]
    with place.ignore_type():
        place[name] = None


def one_unit(config: Any, given: Iterable[str]) -> None:
    """Clear the other units of each length that is overridden, because the override replaces the length.

    Args:
      config: the ConfigDict to change.
      given: the overridden fields, such as `steps` and `schedule.warmup_epochs`.
    """
    given = set(given)
    for fields in _lengths():
        new = [field for field in fields if field in given and _value(config, field) not in (None, 0, ())]
        for field in fields if new else ():
            if field not in given and _value(config, field):
                # Boundaries are a tuple and never None.
                if "boundaries" in field:
                    config.schedule[field.removeprefix("schedule.")] = ()
                else:
                    clear(config, field)


def same_length(field: str) -> tuple[str, ...]:
    """Return all fields that set the same length as `field`; `field` alone if it sets no length."""
    return next((fields for fields in _lengths() if field in fields), (field,))


def unknown_flag(name: str, value: str | None = None, flags: Iterable[str] = ()) -> str:
    """Return a sentence about a flag that does not exist, with the flag or configuration field that the user may mean.

    Args:
      name: name of the flag.
      value: its value, None if it is not known.
      flags: the names of the existing flags.
    """
    name = name.lstrip("-").split("=")[0]
    if name.startswith("config"):
        return ""
    known = f"There is no flag --{name}."
    if hint := did_you_mean(name, flags, cutoff=0.75, show=lambda near: f"--{near}"):
        return known + hint
    name = _SHORT.get(name, name)
    last = {field: field.rpartition(".")[2] for field in KINDS}
    near = [name] if name in last.values() else nearest(name, last.values(), cutoff=0.75)
    fields = [field for field in last if field == name or last[field] in near]
    if not fields:
        return f"{known} Fields of the configuration are set with --config.FIELD=VALUE; configs/common.py lists them."
    given = "VALUE" if value is None else value
    return (
        f"{known} Fields of the configuration are set with config in front: "
        f"{' or '.join(f'--config.{field}={given}' for field in fields[:3])}."
    )


def _lengths() -> list[tuple[str, ...]]:
    return [
        tuple(f"{section}.{field}" if section else field for field in (field_of(name, unit) for unit in UNITS))
        for section, name in DURATIONS
    ]


def _value(config: Any, field: str) -> Any:
    for part in field.split("."):
        config = config.get(part) if hasattr(config, "get") else None
    return config
