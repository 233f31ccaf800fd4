"""Durations in steps, epochs or examples: the field's name has the unit, and training counts in steps."""

import math
from collections.abc import Mapping
from typing import Any

from flax_augtl.config.schema import Config, ScheduleConfig
from flax_augtl.errors import UserError

UNITS = ("steps", "epochs", "examples")
# (section, name) of each duration; the length of the run has no name.
DURATIONS = (
    ("", ""),
    ("schedule", "warmup"),
    ("schedule", "boundaries"),
    ("", "evaluate_every"),
    ("", "checkpoint_every"),
)


def field_of(name: str, unit: str) -> str:
    """Return the name of the field that gives a duration in a unit."""
    return f"{name}_{unit}" if name else unit


def given_unit(values: Mapping[str, Any], name: str) -> str | None:
    """Return the unit of a duration that is set; None if it is not set. The values None, 0 and () do not set it.

    Args:
      values: the section that has the duration.
      name: name of the duration.

    Raises:
      UserError: it is set in more than one unit.
    """
    given = [unit for unit in UNITS if values.get(field_of(name, unit))]
    within = "config.schedule" if name in ("warmup", "boundaries") else "config"
    if len(given) > 1:
        fields = ", ".join(f"{within}.{field_of(name, unit)}={values[field_of(name, unit)]}" for unit in given)
        raise UserError(f"Only one of {fields} can be set; set the others to 0.")
    return given[0] if given else None


def in_steps(config: Config | ScheduleConfig, name: str, *, examples: int, batch_size: int) -> Any:
    """Return a duration as a number of steps, or as a tuple of numbers if the field holds several.

    Args:
      config: has the fields `<name>_steps`, `<name>_epochs` and `<name>_examples`, or `steps`, `epochs` and `examples`
        if `name` is empty.
      name: name of the duration, such as `warmup`.
      examples: number of examples in an epoch.
      batch_size: number of examples in a step.

    Returns:
      Numbers of at least 1; None if no field is set.

    Raises:
      UserError: more than one field is set, or one is negative.
    """
    values = {field_of(name, unit): getattr(config, field_of(name, unit)) for unit in UNITS}
    unit = given_unit(values, name)
    if unit is None:
        return None
    value = values[field_of(name, unit)]
    size = {"steps": 1.0, "epochs": examples / batch_size, "examples": 1 / batch_size}[unit]
    lengths = value if isinstance(value, (tuple, list)) else (value,)
    if any(length < 0 for length in lengths):
        within = "config.schedule" if name in ("warmup", "boundaries") else "config"
        raise UserError(f"{within}.{field_of(name, unit)}={value} is negative.")
    # The small number keeps rounding errors from adding a step.
    steps = tuple(math.ceil(length * size - 1e-6) for length in lengths)
    return steps if isinstance(value, (tuple, list)) else steps[0]
