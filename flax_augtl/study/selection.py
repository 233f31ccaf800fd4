"""What validation chooses: learning rates, depths, lengths and the best head."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

RISING = 0.05  # Share by which the validation loss falls at the end of a curve that is still rising.
LARGEST_GRID = 12  # Learning rates that a grid grows to at most.


def by(rows: Iterable[Mapping[str, Any]], *fields: str) -> dict[Any, list[Mapping[str, Any]]]:
    """Return rows by the value of a field, or by the tuple of the values of several."""
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        key = row[fields[0]] if len(fields) == 1 else tuple(row[field] for field in fields)
        found.setdefault(key, []).append(row)
    return found


def score(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Return (mean validation metric, −mean validation loss) over the seeds of one setting; the larger tuple is better.

    Equal accuracies are decided by the loss: small validation splits often give them. None if a seed diverged or
      failed.
    """
    if not rows or any(row["val"] is None for row in rows):
        return None
    values = [row["val"][row["metric"]] for row in rows]
    losses = [row["val"]["loss"] for row in rows]
    return round(sum(values) / len(values), 12), -sum(losses) / len(losses)


def choose(rows: Iterable[Mapping[str, Any]], *fields: str) -> tuple[Any, list[Mapping[str, Any]]] | None:
    """Return the best value of some fields, and its rows; None if no setting came to a finite end on every seed."""
    scored = [(score(some), key, some) for key, some in by(rows, *fields).items()]
    scored = [each for each in scored if each[0] is not None]
    if not scored:
        return None
    _, key, some = max(scored, key=lambda each: each[0])
    return key, some


def length(rows: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of steps that validation chose: the mean of the best steps over the seeds."""
    return max(1, round(sum(row["best_step"] for row in rows) / len(rows)))


def widened(rows: Sequence[Mapping[str, Any]], tried: Sequence[float]) -> float | None:
    """Return the learning rate by which the grid of one head and depth must grow; None if its choice is not at an edge.

    Args:
      rows: of one head and depth.
      tried: all learning rates of its grid.
    """
    rates = sorted(tried)
    found = choose(rows, "learning_rate")
    if found is None or len(rates) < 2 or len(rates) >= LARGEST_GRID or found[0] not in (rates[0], rates[-1]):
        return None
    new = rates[0] ** 2 / rates[1] if found[0] == rates[0] else rates[-1] ** 2 / rates[-2]
    return float(f"{new:.3g}")


def still_rising(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a training was still getting better at its end: a longer one may be better.

    It was, if its last evaluation was its best one, and the validation loss fell by a twentieth or more over the last
    third of its steps.

    Args:
      rows: of one setting, one a seed; more than half of them must have been getting better.
    """
    return bool(rows) and sum(map(_rising, rows)) > len(rows) / 2


def _rising(row: Mapping[str, Any]) -> bool:
    points = [point for point in row["history"] or () if point["val"] is not None]
    if len(points) < 3 or row["diverged"]:
        return False
    last = points[-1]
    before = max(
        (point for point in points if 3 * point["step"] <= 2 * last["step"]),
        key=lambda point: point["step"],
        default=points[0],
    )
    if any((point["val"], -point["val_loss"]) > (last["val"], -last["val_loss"]) for point in points):
        return False
    return last["val_loss"] <= (1 - RISING) * before["val_loss"]


def winners(rows: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any]) -> dict[Any, dict[str, Any]]:
    """Return what validation chose for each value of a key.

    Args:
      rows: of selecting trials.
      key: of a row: its head, or its head and depth.

    Returns:
      `depth`, `classifier_rate`, `learning_rate`, `steps`, `score` of each; a key of which every setting failed is not
      among them.
    """
    found = {}
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    for name, some in groups.items():
        best = choose(some, "depth", "classifier_rate", "learning_rate", "steps")
        if best is not None:
            (depth, classifier_rate, rate, _), chosen = best
            found[name] = {
                "depth": depth,
                "classifier_rate": classifier_rate,
                "learning_rate": rate,
                "steps": length(chosen),
                "score": score(chosen),
            }
    return found
