"""A field of the configuration: its default, its range or choices, and the comment that documents it."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

_KEY = "setting"
# For `absent`: versions without the field did what today's default does.
SAME = object()
ANY_OF_THREE = "text, number, true or false"


@dataclasses.dataclass(frozen=True)
class Setting:
    """The declaration of a field besides its type.

    Attributes:
      comment: what the field does, for configs and docs.
      default: the default value.
      least: smallest allowed number.
      most: largest allowed number.
      above: exclusive lower bound of a number.
      below: exclusive upper bound of a number.
      choices: the allowed texts; () if every text is allowed.
      absent: the value with the behaviour of versions without the field, if older versions lack it.
      added: whether older versions lack the field.
    """

    comment: str
    default: Any
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    absent: Any = None
    added: bool = False

    @property
    def has_range(self) -> bool:
        """Whether a bound was declared."""
        bounds = (self.least, self.most, self.above, self.below)
        return any(math.isfinite(bound) for bound in bounds)

    def holds(self, value: float) -> bool:
        """Return whether a number is in range."""
        return self.least <= value <= self.most and self.above < value < self.below

    def range_text(self) -> str:
        """Return the range as text, such as `at least 0 and below 1`."""
        bounds = (
            ("at least", self.least),
            ("above", self.above),
            ("at most", self.most),
            ("below", self.below),
        )
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if math.isfinite(bound))


def setting(default: Any, comment: str, *, absent: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """Declare a field of a configuration dataclass.

    Args:
      default: the default value; a mapping is copied.
      comment: what the field does.
      absent: if older versions lack the field: the value with the behaviour of those versions, or `SAME`.
      **limits: `least`, `most`, `above`, `below` for numbers; `choices` for texts.
    """
    added = absent is not dataclasses.MISSING
    declared = Setting(
        comment, default, absent=default if absent is SAME else absent if added else None, added=added, **limits
    )
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata={_KEY: declared})
    return dataclasses.field(default=default, metadata={_KEY: declared})


def section(kind: type, comment: str) -> Any:
    """Declare a field that holds a dataclass of further fields."""
    return dataclasses.field(default_factory=kind, metadata={_KEY: Setting(comment, kind)})


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the whole configuration.

    Attributes:
      name: the name with its sections, such as `data.shots`.
      annotation: the type.
      setting: the rest of the declaration.
    """

    name: str
    annotation: Any
    setting: Setting

    @property
    def optional(self) -> bool:
        """Whether the field can be None."""
        return type(None) in _members(self.annotation)

    @property
    def kind(self) -> str:
        """The type in words, such as `whole number or null`."""
        members = [member for member in _members(self.annotation) if member is not type(None)]
        kind = _WORDS[members[0]] if len(members) == 1 else ANY_OF_THREE
        return f"{kind} or null" if self.optional else kind

    @property
    def several(self) -> type | None:
        """The type of the items if the field holds a tuple, otherwise None."""
        members = [member for member in _members(self.annotation) if typing.get_origin(member) is tuple]
        return typing.get_args(members[0])[0] if members else None


_WORDS: Mapping[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    tuple[int, ...]: "list of numbers",
    tuple[float, ...]: "list of numbers",
    tuple[str, ...]: "list of texts",
    Mapping[str, Any]: "object in braces",
}


def _members(annotation: Any) -> tuple[Any, ...]:
    union = isinstance(annotation, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def fields_of(kind: type, prefix: str = "") -> Iterator[Field]:
    """Yield all fields of a configuration dataclass in order, with the fields of sections in place of the sections."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        annotation, declared = hints[field.name], field.metadata[_KEY]
        if dataclasses.is_dataclass(annotation):
            yield from fields_of(typing.cast(type, annotation), f"{prefix}{field.name}.")
        else:
            yield Field(prefix + field.name, annotation, declared)


def sections_of(kind: type) -> Mapping[str, type]:
    """Return {name: dataclass} of the sections of a configuration dataclass."""
    hints = typing.get_type_hints(kind)
    return {
        field.name: hints[field.name]
        for field in dataclasses.fields(kind)
        if dataclasses.is_dataclass(hints[field.name])
    }


def comment_of(kind: type, name: str) -> str:
    """Return the comment of a field or section of a dataclass."""
    return next(field.metadata[_KEY].comment for field in dataclasses.fields(kind) if field.name == name)
