"""The cells of a study by what they share: heads, the cells of one choice, values by seed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flax_augtl.study.result import StudyResult

Row = Mapping[str, Any]


def heads(result: StudyResult) -> tuple[str, ...]:
    """Return the names of all heads: those with a winner first, in their order, then those of which every cell failed."""
    return tuple(dict.fromkeys([*result.winners, *(row["head"] for row in result.rows)]))


def failed(result: StudyResult) -> list[Row]:
    """Return the cells without a result: an error stopped them, or their loss ceased to be finite."""
    return [row for row in result.rows if row["error"] or row["diverged"]]


def finals(result: StudyResult, head: str, depth: str) -> dict[int, Row]:
    """Return the tested cells of a head and depth by seed, in ascending order."""
    found = {row["seed"]: row for row in result.rows
             if row["stage"] == "final" and row["head"] == head and row["depth"] == depth and row["test"]}
    return dict(sorted(found.items()))


def selected(result: StudyResult, head: str, depth: str) -> dict[int, Row]:
    """Return the selecting cells, by seed, of the choice that is best on validation for a head and depth.

    A choice is a learning rate and the settings of the head; one that failed with any seed is passed over while there is
    another. For the winner's depth it is the winner's choice, as the final cells say it.
    """
    choices: dict[tuple[float, str], dict[int, Row]] = {}
    seeds = set()
    for row in result.rows:
        if row["stage"] == "select" and row["head"] == head and row["depth"] == depth:
            seeds.add(row["seed"])
            if row["val"] and not row["diverged"]:
                choices.setdefault((row["learning_rate"], _settings(row)), {})[row["seed"]] = row
    if not choices:
        return {}
    for row in finals(result, head, depth).values():
        if (chosen := (row["learning_rate"], _settings(row))) in choices:
            return dict(sorted(choices[chosen].items()))

    def merit(cells: Mapping[int, Row]) -> tuple[bool, float, float]:
        return (len(cells) == len(seeds), round(mean(row["val"][result.metric] for row in cells.values()), 12),
                -mean(row["val"]["loss"] for row in cells.values()))

    return dict(sorted(max(choices.values(), key=merit).items()))


def _settings(row: Row) -> str:
    return json.dumps(row["settings"], sort_keys=True)


def values(cells: Mapping[int, Row], split: str, metric: str) -> dict[int, float]:
    """Return a metric by seed."""
    return {seed: row[split][metric] for seed, row in cells.items()}


def differences(values: Mapping[int, float], others: Mapping[int, float]) -> list[float]:
    """Return `values` minus `others` for every seed that both have."""
    return [values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())]


def leep_cells(result: StudyResult) -> dict[int, Row]:
    """Return what stands for tested cells of LEEP's predictor, by seed."""
    seeds = sorted({row["seed"] for row in result.rows if row["stage"] == "final"})
    by_seed = result.leep["test_by_seed"] if result.leep else []
    said = (result.leep or {}).get("predicted_by_seed") or [None] * len(by_seed)
    return {seed: {"cell": "LEEP", "test": summary, "predicted": text}
            for seed, summary, text in zip(seeds, by_seed, said, strict=False)}


def epochs(result: StudyResult, row: Row, examples: float) -> float:
    """Return how many passes over the training data of a cell so many examples are."""
    return examples / max(1, result.counts["train"] + (result.counts["val"] if row["stage"] == "final" else 0))


def reached(result: StudyResult, row: Row, share: float = 0.9) -> tuple[float, float] | None:
    """Return the epochs and seconds after which a cell first had a share of its own best validation accuracy.

    None for a cell that was not validated.
    """
    history = [point for point in row["history"] or () if point["val"] is not None]
    if not history:
        return None
    enough = share * max(point["val"] for point in history) - 1e-9  # 0.9 of 0.8 shall not be more than 0.72.
    first = next(point for point in history if point["val"] >= enough)
    return epochs(result, row, first["examples"]), first["seconds"]


def mean(values: Iterable[float]) -> float:
    """Return the mean; NaN of nothing."""
    found: Sequence[float] = list(values)
    return sum(found) / len(found) if found else float("nan")
