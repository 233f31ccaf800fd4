"""The questions about normalising and scaling: the norm and scale that validation chose, against none and against 1."""

import json
from collections.abc import Iterator

from flax_augtl.config.heads import SCALED
from flax_augtl.study.report import queries
from flax_augtl.study.result import StudyResult

# The settings in which the heads of one family differ.
_DIFFERENT = ("norm", "scale", "classifier_rate")


def norm_questions(result: StudyResult) -> list[tuple[str, str, str]]:
    """Return (question, head, other head) for each family of heads that differ only in their norm and its scale.

    Validation chooses the head; the test split compares it with the other one.
    """
    return [question for family in _families(result) for question in _of_family(result, family)]


def _of_family(result: StudyResult, family: dict[str, dict]) -> Iterator[tuple[str, str, str]]:
    first = next(iter(family))
    plain = next((name for name, settings in family.items() if settings["norm"] == "none"), None)
    normed = [name for name, settings in family.items() if settings["norm"] != "none"]
    if not normed:
        return
    chosen = max(normed, key=lambda name: _merit(result, name))
    if plain is not None:
        yield f"Does normalising and scaling help ({first}; validation chose the norm and scale)?", chosen, plain
    norm = family[chosen]["norm"]
    unit = next((name for name in normed if family[name]["norm"] == norm and family[name]["scale"] == 1), None)
    if norm in SCALED and unit not in (None, chosen):
        yield f"… and scaling alone ({first}, {norm}; validation chose the scale, against 1)?", chosen, unit


def _families(result: StudyResult) -> list[dict[str, dict]]:
    """Return the settings of the tested heads by name, for each family."""
    families: dict[str, dict[str, dict]] = {}
    for head, winner in result.winners.items():
        rows = queries.finals(result, head, winner["depth"])
        settings = next((row["settings"] for row in rows.values() if row["settings"]), None)
        if settings and head != "scratch":
            same = {name: value for name, value in settings.items() if name not in _DIFFERENT}
            families.setdefault(json.dumps(same, sort_keys=True), {})[head] = settings
    return [*families.values()]


def _merit(result: StudyResult, head: str) -> tuple[float, float]:
    """Return (mean validation accuracy, −mean validation loss) of a head at its chosen depth."""
    rows = [row["val"] for row in queries.selected(result, head, result.winners[head]["depth"]).values()]
    if not rows:
        return float("-inf"), 0.0
    return round(queries.mean(row[result.metric] for row in rows), 12), -queries.mean(row["loss"] for row in rows)
