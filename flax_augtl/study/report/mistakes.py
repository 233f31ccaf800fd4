"""The errors of the winner: confusion matrix, most confused pairs, most confident errors with their images."""

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from flax_augtl.study.result import StudyResult
from flax_augtl.trust.report import parts
from flax_augtl.trust.thumbnails import data_uri


def confusion(result: StudyResult) -> np.ndarray:
    """Return the counts of the winner on the test split, int64 [C, C]: rows are labels, columns predictions."""
    count, found = len(result.class_names), _predictions(result)
    matrix = np.zeros((count, count), np.int64)
    np.add.at(matrix, (np.asarray(found["label"], int), np.asarray(found["prediction"], int)), 1)
    return matrix


def _predictions(result: StudyResult) -> Mapping[str, list]:
    assert result.predictions is not None, "a section about errors needs predictions"
    return result.predictions


def confused_pairs(result: StudyResult, most: int = 15) -> list[tuple[str, str, int, int]]:
    """Return (label, prediction, how often, examples of the label), most frequent first."""
    return parts.confused_pairs(confusion(result), result.class_names, most)


def confusion_png(result: StudyResult) -> str | None:
    """Return the confusion matrix as a data URI; None for more than 40 classes."""
    return parts.confusion_uri(confusion(result), result.class_names)


def confident_mistakes(result: StudyResult, most: int = 12) -> list[tuple[int, str, str, str, float]]:
    """Return (position, id, label, prediction, confidence) of wrong predictions, the most confident first."""
    said = _predictions(result)
    wrong = [
        i
        for i, (label, prediction) in enumerate(zip(said["label"], said["prediction"], strict=True))
        if label != prediction
    ]
    wrong.sort(key=lambda i: (-said["confidence"][i], i))
    return [
        (
            i,
            str(said["id"][i]),
            result.class_names[said["label"][i]],
            result.class_names[said["prediction"][i]],
            said["confidence"][i],
        )
        for i in wrong[:most]
    ]


def thumbnail(read: Callable[[int], np.ndarray], index: int) -> str | None:
    """Return a test example as a small JPEG data URI; None if it can no longer be read."""
    try:
        pixels = np.asarray(read(index))
    except (OSError, ValueError):
        return None  # A missing file must not cost the report of a long study.
    return data_uri(Image.fromarray(pixels))
