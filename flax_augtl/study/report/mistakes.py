"""The errors of the winner: confusion matrix, most confused pairs, most confident errors with their images."""

import base64
import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from flax_augtl.study.result import StudyResult
from flax_augtl.training.confusion import confusion_image

# A matrix of more classes is unreadable.
MOST_CLASSES = 40
THUMBNAIL = 160


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
    matrix = confusion(result)
    off = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    return [
        (result.class_names[i], result.class_names[j], int(off[i, j]), int(matrix[i].sum()))
        for i, j in zip(*np.unravel_index(order, off.shape), strict=True)
        if off[i, j]
    ]


def confusion_png(result: StudyResult) -> str | None:
    """Return the confusion matrix as a data URI; None for more than 40 classes."""
    if len(result.class_names) > MOST_CLASSES:
        return None
    return _data_uri(confusion_image(confusion(result), result.class_names), "PNG")


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
    image = Image.fromarray(pixels)
    scale = THUMBNAIL / max(image.size)
    if scale < 1:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
    elif scale >= 2:  # Show the pixels of a tiny image, without smoothing.
        image = image.resize([int(scale) * side for side in image.size], Image.Resampling.NEAREST)
    return _data_uri(np.asarray(image), "JPEG")


def _data_uri(pixels: np.ndarray, format: str) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format=format, quality=85)
    return f"data:image/{format.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
