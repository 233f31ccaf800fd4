"""The candidates of the search within a time budget, and the order in which their depths are tried."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax_augtl.study.grid import ALL, Grid, Group


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A head at a depth, with a learning rate."""

    group: Group
    rate: float


def order_of(grid: Grid, own: str) -> list[str]:
    """Return the depths in the order in which they are tried: `all`, then that of the config, then downwards.

    Args:
      grid: what is compared.
      own: `config.freeze`.
    """
    downwards = list(reversed(grid.axis))
    mine = [
        label
        for label in downwards
        if label == own
        or any(labels.get(label) == own and grid.label(head, own) == label for head, labels in grid.labels.items())
    ]
    return list(dict.fromkeys([*(label for label in downwards if label == ALL), *mine, *downwards]))


def group_of(row: Mapping[str, Any]) -> Group:
    """Return the group of a trial's row."""
    return row["head"], row["depth"], row["classifier_rate"]
