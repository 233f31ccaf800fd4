"""Look up the trials of a study: by head, by choice, by seed."""

import json
from collections.abc import Iterable, Mapping, Sequence

from flax_augtl.study.result import Row, StudyResult


def heads(result: StudyResult) -> tuple[str, ...]:
    """Return the names of all heads: first those with a winner, in their order, then those whose trials all failed."""
    return tuple(dict.fromkeys([*result.winners, *(row["head"] for row in result.rows)]))


def shown(result: StudyResult, head: str, depth: str) -> str:
    """Return the name under which a depth is shown: for some heads, two requested depths freeze the same layers."""
    return result.same_depths.get(head, {}).get(depth, depth)


def depths(result: StudyResult, head: str) -> tuple[str, ...]:
    """Return the depths of a study, bottom to top, except those that a head shows under another name."""
    return tuple(depth for depth in result.depths if shown(result, head, depth) == depth)


def new_layers_rate(result: StudyResult, learning_rate: float | None) -> float | None:
    """Return the learning rate of new layers for that of pretrained layers; None if it is unknown."""
    multiplier = result.config.get("new_layer_multiplier")
    # Rounded, so that 10 × 0.0003 is 0.003.
    return None if learning_rate is None or multiplier is None else float(f"{learning_rate * multiplier:.6g}")


def failed(result: StudyResult) -> list[Row]:
    """Return the trials without a result, which stopped with an error or diverged."""
    return [row for row in result.rows if row["error"] or row["diverged"]]


def finals(result: StudyResult, head: str, depth: str) -> dict[int, Row]:
    """Return the tested trials of a head and depth by seed, in ascending order of the seeds."""
    depth = shown(result, head, depth)
    found = {
        row["seed"]: row
        for row in result.rows
        if row["stage"] == "final" and row["head"] == head and row["depth"] == depth and row["test"]
    }
    return dict(sorted(found.items()))


def lengths(result: StudyResult, head: str, depth: str) -> set[int]:
    """Return the lengths, in steps, of the successful selecting trials of a head and depth."""
    depth = shown(result, head, depth)
    return {
        row["steps"]
        for row in result.rows
        if row["stage"] == "select"
        and row["head"] == head
        and row["depth"] == depth
        and row["val"]
        and not row["diverged"]
    }


def selected(result: StudyResult, head: str, depth: str, steps: int | None = None) -> dict[int, Row]:
    """Return the selecting trials, by seed, of the choice that is best on validation for a head and depth.

    A choice is a learning rate and the settings of the head. Only trainings of one length count: of `steps` steps, or
    the longest ones. A choice that failed with some seed loses against one that did not. If there are final trials of
    this depth, their choice is returned.
    """
    depth = shown(result, head, depth)
    steps = max(lengths(result, head, depth), default=None) if steps is None else steps
    choices: dict[tuple[float, str], dict[int, Row]] = {}
    seeds = set()
    for row in result.rows:
        if row["stage"] == "select" and row["head"] == head and row["depth"] == depth:
            seeds.add(row["seed"])
            if row["val"] and not row["diverged"] and row["steps"] == steps:
                choices.setdefault((row["learning_rate"], _settings(row)), {})[row["seed"]] = row
    if not choices:
        return {}
    for row in finals(result, head, depth).values():
        if (chosen := (row["learning_rate"], _settings(row))) in choices:
            return dict(sorted(choices[chosen].items()))

    def merit(trials: Mapping[int, Row]) -> tuple[bool, float, float]:
        return (
            len(trials) == len(seeds),
            round(mean(row["val"][result.metric] for row in trials.values()), 12),
            -mean(row["val"]["loss"] for row in trials.values()),
        )

    return dict(sorted(max(choices.values(), key=merit).items()))


def _settings(row: Row) -> str:
    return json.dumps(row["settings"], sort_keys=True)


def values(trials: Mapping[int, Row], split: str, metric: str) -> dict[int, float]:
    """Return a metric of trials by seed."""
    return {seed: row[split][metric] for seed, row in trials.items()}


def differences(values: Mapping[int, float], others: Mapping[int, float]) -> list[float]:
    """Return `values` minus `others` for every common seed, in ascending order of the seeds."""
    return [values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())]


def leep_trials(result: StudyResult) -> dict[int, Row]:
    """Return the results of LEEP's predictor in the form of tested trials, by seed."""
    seeds = sorted({row["seed"] for row in result.rows if row["stage"] == "final"})
    by_seed = result.leep["test_by_seed"] if result.leep else []
    said = (result.leep or {}).get("predicted_by_seed") or [None] * len(by_seed)
    return {
        seed: {"cell": "LEEP", "test": summary, "predicted": text}
        for seed, summary, text in zip(seeds, by_seed, said, strict=False)
    }


def epochs(result: StudyResult, row: Row, examples: float) -> float:
    """Return a number of examples in epochs of the training data of a trial."""
    return examples / max(1, result.counts["train"] + (result.counts["val"] if row["stage"] == "final" else 0))


def reached(result: StudyResult, row: Row, share: float = 0.9, *, final: bool = False) -> tuple[float, float] | None:
    """Return the epochs and seconds in which a trial reached a share of its best accuracy; None without validation.

    Args:
      result: of the study.
      row: of the trial.
      share: of the accuracy.
      final: take the accuracy at the end of the training, not the best one.
    """
    history = [point for point in row["history"] or () if point["val"] is not None]
    if not history:
        return None
    whole = history[-1]["val"] if final else max(point["val"] for point in history)
    enough = share * whole - 1e-9  # So that 0.72 is enough for 0.9 of 0.8.
    first = next(point for point in history if point["val"] >= enough)
    return epochs(result, row, first["examples"]), first["seconds"]


def mean(values: Iterable[float]) -> float:
    """Return the mean; NaN without values."""
    found: Sequence[float] = list(values)
    return sum(found) / len(found) if found else float("nan")
