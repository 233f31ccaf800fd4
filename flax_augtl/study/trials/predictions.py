"""The predictions of each final trial for the test images, kept in its row to compare heads image by image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flax_augtl.data import Examples
from flax_augtl.errors import UserError
from flax_augtl.features.feed import Feed
from flax_augtl.study.context import Context
from flax_augtl.study.trials.batches import evaluate
from flax_augtl.training.evaluation import Evaluation, fits


def tested_trials(
    context: Context, feed: Feed, variables: Any, splits: Sequence[Examples]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the metrics of each trial on its test split, and its predictions as text (`written`).

    Args:
      context: of the study.
      feed: of the trials.
      variables: stacked [trials, ...].
      splits: the test split of each trial.
    """
    said: list[list[np.ndarray]] = [[] for _ in splits]
    kept: list[list[np.ndarray]] = [[] for _ in splits]
    keep = fits(sum(map(len, splits)), len(context.class_names))

    def each(trial: int, probabilities: np.ndarray) -> None:
        said[trial].append(probabilities.argmax(axis=1))
        if keep:
            kept[trial].append(probabilities)

    sums = evaluate(context, feed, variables, [split.ids for split in splits], [split.labels for split in splits], each)
    tested = [
        Evaluation(one, split.labels, np.concatenate(some) if keep else None).metrics
        for one, split, some in zip(sums, splits, kept, strict=True)
    ]
    return tested, [written(np.concatenate(some)) for some in said]


def written(predicted: np.ndarray) -> str:
    """Return predicted classes, in the order of the test split, as numbers separated by blanks."""
    return " ".join(map(str, predicted.tolist()))


def read(row: Mapping[str, Any]) -> np.ndarray | None:
    """Return the predictions of a trial for the test split, int [N]; None if it was not tested or its row is old.

    Raises:
      UserError: the field is not text of whole numbers.
    """
    text = row.get("predicted")
    if text is None:
        return None
    if not isinstance(text, str) or not all(word.isdecimal() and len(word) < 10 for word in text.split()):
        raise UserError(f"{row['cell']}: predicted must be text of whole numbers.")
    return np.array([int(word) for word in text.split()], np.int64)
