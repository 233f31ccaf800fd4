"""The rows of finished trials, one JSON file for each trial."""

import json
from pathlib import Path
from typing import Any

from flax_augtl.config import value_types
from flax_augtl.errors import UserError
from flax_augtl.study.grid import Trial
from flax_augtl.study.trials import predictions
from flax_augtl.workdir import files

_ROW = {
    "cell": "text",
    "stage": "text",
    "head": "text",
    "depth": "text",
    "classifier_rate": "text",
    "metric": "text",
    "learning_rate": "number",
    "seconds": "number",
    "seed": "whole number",
    "steps": "whole number",
    "examples_seen": "whole number",
    "trainable": "whole number",
    "best_step": "whole number or null",
    "diverged": "true or false",
    "error": "text or null",
}
_POINT = {
    "step": "whole number",
    "examples": "whole number",
    "seconds": "number",
    "loss": "number or null",
    "val": "number or null",
    "val_loss": "number or null",
}


def read_row(path: Path, trial: Trial) -> dict[str, Any]:
    """Read the row of a finished trial.

    Raises:
      UserError: a field is missing or has the wrong type, or the row is of another trial.
    """
    row = files.read_json(path)
    value_types.check(row, _ROW, tuple(_ROW), str(path))
    whole = (
        isinstance(row.get("settings"), dict)
        and _has_numbers(row.get("change"))
        and all(
            name in row
            and (
                row[name] is None
                or _has_numbers(row[name])
                and value_types.is_a(row[name].get(row["metric"]), "number")
            )
            for name in ("val", "test")
        )
        and isinstance(row.get("history"), list)
    )
    its_own = all(
        row[name] == getattr(trial, name)
        for name in ("stage", "head", "depth", "classifier_rate", "learning_rate", "seed")
    )
    try:
        predictions.read(row)
    except ValueError:
        whole = False
    if row["cell"] != trial.name or not whole or not its_own:
        raise UserError(f"{path} is not the row of {trial.name}.")
    for point in row["history"]:
        value_types.check(point, _POINT, tuple(_POINT), f"{path}: history")
    return row


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Write the row of a finished trial.

    Raises:
      ValueError: a number is not finite. JSON has no such numbers, so the row could not be read, and its trial would be
        trained again and again.
    """
    json.dumps(row, allow_nan=False)
    files.write_json(path, row)


def _has_numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(value_types.is_a(value, "number or null") for value in values.values())
