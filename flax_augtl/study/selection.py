"""What validation chooses: learning rates, depths, lengths and the best head."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from flax_augtl.study.result import Row

RISING = 0.05  # A training is still improving if its validation loss falls by at least this share at the end.
LARGEST_GRID = 12  # The most learning rates that a grid grows to.

R = TypeVar("R", bound=Row)


def by(rows: Iterable[R], *fields: str) -> dict[Any, list[R]]:
    """Return rows by the value of a field, or by the tuple of the values of several fields."""
    found: dict[Any, list[R]] = {}
    for row in rows:
        key = row[fields[0]] if len(fields) == 1 else tuple(row[field] for field in fields)
        found.setdefault(key, []).append(row)
    return found


def score(rows: Sequence[Row]) -> tuple[float, float] | None:
    """Return (mean validation metric, −mean validation loss) over the seeds of one setting; the larger tuple is better.

    The loss decides between equal accuracies, which are common with small validation splits. The score is None if a
    seed diverged or failed.
    """
    if not rows or any(row["val"] is None for row in rows):
        return None
    values = [row["val"][row["metric"]] for row in rows]
    losses = [row["val"]["loss"] for row in rows]
    return round(sum(values) / len(values), 12), -sum(losses) / len(losses)


def choose(rows: Iterable[R], *fields: str) -> tuple[Any, list[R]] | None:
    """Return the best value of some fields, and its rows; None if every setting failed or diverged on some seed."""
    scored = [(found, key, some) for key, some in by(rows, *fields).items() if (found := score(some)) is not None]
    if not scored:
        return None
    _, key, some = max(scored, key=lambda each: each[0])
    return key, some


def length(rows: Sequence[Row]) -> int:
    """Return the number of steps that validation chose: the mean over the seeds of their best step."""
    return max(1, round(sum(row["best_step"] for row in rows) / len(rows)))


def widened(rows: Sequence[Row], tried: Sequence[float]) -> float | None:
    """Return the learning rate to add to the grid of one head and depth; None if its choice is not at an edge.

    Args:
      rows: of one head and depth.
      tried: all learning rates that its grid has.
    """
    rates = sorted(tried)
    found = choose(rows, "learning_rate")
    if found is None or len(rates) < 2 or len(rates) >= LARGEST_GRID or found[0] not in (rates[0], rates[-1]):
        return None
    new = rates[0] ** 2 / rates[1] if found[0] == rates[0] else rates[-1] ** 2 / rates[-2]
    return float(f"{new:.3g}")


def still_rising(rows: Sequence[Row]) -> bool:
    """Return whether a training was still improving at its end, so that a longer one may be better.

    It was if its last evaluation was its best, and the validation loss fell by 5 % or more over the last third of its
    steps.

    Args:
      rows: of one setting, one for each seed; more than half of them must have been improving.
    """
    return bool(rows) and sum(map(_rising, rows)) > len(rows) / 2


def _rising(row: Row) -> bool:
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


def winners(rows: Sequence[Row], key: Callable[[Row], Any]) -> dict[Any, dict[str, Any]]:
    """Return what validation chose for each value of a key.

    Args:
      rows: of selecting trials.
      key: gives the key of a row: its head, or its head and depth.

    Returns:
      `depth`, `classifier_rate`, `learning_rate`, `steps` and `score` of each. A key whose settings all failed is
      missing.
    """
    found = {}
    groups: dict[Any, list[Row]] = {}
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
