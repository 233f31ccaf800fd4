"""The types of JSON values in words, and checks of JSON objects, which may come from a stranger's run directory."""

import math
from collections.abc import Mapping
from typing import Any

from flax_augtl.errors import UserError

# The fields that loading, evaluating and predicting read. Other versions of this program may lack the others.
NEEDED = ("seed", "batch_size", "compute_dtype", "head.preset", "data.name", "data.threads")


def is_a(value: Any, kind: str) -> bool:
    """Return whether a JSON value has a type that is given in words, such as `whole number or null`.

    NaN, infinities and integers beyond int64 do not count as numbers.
    """
    if kind.endswith(" or null"):
        return value is None or is_a(value, kind.removesuffix(" or null"))
    if kind.startswith("list of "):
        one = kind.removeprefix("list of ").removesuffix("s")
        return isinstance(value, (list, tuple)) and all(is_a(item, one) for item in value)
    if kind == "text, number, true or false":
        return any(is_a(value, each) for each in ("text", "number", "true or false"))
    if kind == "object in braces":
        return isinstance(value, Mapping)
    if isinstance(value, bool):
        return kind == "true or false"
    whole = isinstance(value, int) and abs(value) < 2**63
    return {
        "whole number": whole,
        "text": isinstance(value, str),
        "number": whole or isinstance(value, float) and math.isfinite(value),
    }.get(kind, False)


def check(values: Any, kinds: Mapping[str, str], needed: tuple[str, ...], where: str) -> None:
    """Check the fields of a JSON object.

    Args:
      values: the object.
      kinds: the types of its fields, by names with dots for nested fields; other fields are not checked.
      needed: the fields that it must have.
      where: name of the object in the message.

    Raises:
      UserError: it is not an object, lacks fields, or has fields of the wrong type; the message lists all of them.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be an object in braces, not {shown(values)}.")
    problems = []
    for name, kind in kinds.items():
        value = values
        for part in name.split("."):
            if not isinstance(value, Mapping):
                problems.append(f"{name}: its parent must be an object in braces, not {shown(value)}")
                break
            if part not in value:
                problems += [f"{name} is missing"] if name in needed else []
                break
            value = value[part]
        else:
            if not is_a(value, kind):
                problems.append(f"{name} must be a {kind}, not {shown(value)}")
    if problems:
        raise UserError(f"{where} cannot be used:\n  " + "\n  ".join(problems))


def shown(value: Any) -> str:
    """Return a value as text of at most 60 characters."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
