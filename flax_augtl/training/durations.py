"""Lengths in steps, epochs or examples: the unit is in the field's name, and everything is counted in steps."""

import math
from collections.abc import Mapping
from typing import Any

UNITS = ("steps", "epochs", "examples")


def in_steps(config: Mapping[str, Any], name: str, *, examples: int, batch_size: int) -> Any:
    """Return a length as a number of steps, or, where the field holds several, as a tuple of them.

    Args:
      config: has the fields `<name>_steps`, `<name>_epochs`, `<name>_examples`, or, if `name` is empty, those without
        it.
      name: of the length, such as `warmup`.
      examples: in an epoch.
      batch_size: examples in a step.

    Returns:
      At least 1; None where no field is set (None, 0 and () are not set).

    Raises:
      ValueError: more than one field is set, or one is negative.
    """
    fields = {unit: f"{name}_{unit}" if name else unit for unit in UNITS}
    given = {unit: config[field] for unit, field in fields.items() if config.get(field)}
    within = "config.schedule" if name in ("warmup", "boundaries") else "config"
    if not given:
        return None
    if len(given) > 1:
        raise ValueError(
            "Only one of "
            + ", ".join(f"{within}.{fields[unit]}={value}" for unit, value in given.items())
            + " can be set; set the others to 0."
        )
    ((unit, value),) = given.items()
    size = {"steps": 1.0, "epochs": examples / batch_size, "examples": 1 / batch_size}[unit]

    def steps(length):
        if length < 0:
            raise ValueError(f"{within}.{fields[unit]}={value} is negative.")
        # The small amount keeps 3 epochs of 10 steps at 30, whatever the rounding of 10/3 * 3 does.
        return math.ceil(length * size - 1e-6)

    return tuple(steps(length) for length in value) if isinstance(value, (tuple, list)) else steps(value)
