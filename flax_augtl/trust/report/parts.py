"""Parts that the report of a run and the report of a study share: tables of metrics and classes, confusion, errors."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flax_augtl.runtime.markup import Markup, details, element, join, paragraph, picture, table

SCORES = (
    ("Top-1 accuracy (weighted recall)", "top1"), ("Top-5 accuracy", "top5"),
    ("Mean per-class accuracy (balanced accuracy, mean recall)", "mean_per_class"), ("Precision, mean", "precision"),
    ("F1, mean", "f1"), ("Precision, weighted by images", "weighted_precision"), ("F1, weighted by images", "weighted_f1"),
    ("ROC AUC, mean", "roc_auc"), ("Cohen's kappa", "kappa"), ("Log-loss", "loss"),
    ("Log-loss, calibrated", "loss_calibrated"), ("Expected calibration error", "calibration_error"),
    ("Expected calibration error, calibrated", "calibration_error_calibrated"),
)  # fmt: skip
CLASSES_NOTE = (
    "Means are over the classes that occur in the split. A class that is never predicted has a precision of 0. ROC AUC: "
    "one class against the rest. –: not defined."
)
# A longer table is folded.
LONG = 20
# A matrix of more classes is unreadable.
MOST_CLASSES = 40


def metrics_table(values: Mapping[str, Any], intervals: Mapping[str, Sequence[float]]) -> Markup:
    """Return the table of all metrics, with the intervals that are known."""
    rows = [
        [name, number(values[key]), "[{:.4f}, {:.4f}]".format(*intervals[key]) if key in intervals else ""]
        for name, key in SCORES
        if key in values
    ]
    return table(["Metric", "", "95 % over images (bootstrap)"], rows)


def class_table(classes: Sequence[Mapping[str, Any]]) -> Markup:
    """Return the table of all classes (`Evaluation.class_table`)."""
    rows = [
        [
            row["label"],
            row["n"],
            *(number(row[name]) for name in ("recall", "precision", "f1", "roc_auc")),
            row["taken_for"] or "",
        ]
        for row in classes
    ]
    shown = table(
        ["Class", "Images", "Recall (accuracy)", "Precision", "F1", "ROC AUC", "Most often predicted as"], rows
    )
    return shown if len(rows) <= LONG else details(f"{len(rows)} classes", shown)


def number(value: float | None) -> str:
    """Return a metric with four digits, or a dash."""
    return "–" if value is None else f"{value:.4f}"


def confusion_uri(matrix: np.ndarray, class_names: Sequence[str]) -> str | None:
    """Return the confusion matrix as a data URI; None for more than 40 classes."""
    if len(class_names) > MOST_CLASSES:
        return None
    from PIL import Image

    from flax_augtl.training.confusion import confusion_image

    data = io.BytesIO()
    Image.fromarray(confusion_image(matrix, class_names)).save(data, format="PNG")
    return png_uri(data.getvalue())


def png_uri(content: bytes) -> str:
    """Return a PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def confused_pairs(matrix: np.ndarray, class_names: Sequence[str], most: int = 15) -> list[tuple[str, str, int, int]]:
    """Return (label, prediction, how often, examples of the label), most frequent first."""
    off = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    return [
        (class_names[int(i)], class_names[int(j)], int(off[i, j]), int(matrix[i].sum()))
        for i, j in zip(*np.unravel_index(order, off.shape), strict=True)
        if off[i, j]
    ]


def confusion_section(uri: str | None, pairs: Sequence[tuple[str, str, int, int]], alt: str) -> Markup:
    """Return a confusion matrix, and the table of the pairs of classes that are confused most often."""
    rows = [[label, other, f"{count} of {total}"] for label, other, count, total in pairs]
    return join(
        picture(uri, alt, "confusion") if uri else "",
        table(["Class", "Predicted as", "How often"], rows) if rows else "",
    )


def error_card(uri: str | None, label: str, prediction: str, confidence: float, name: str) -> Markup:
    """Return an image that is classified wrongly: the prediction with its probability, the label, and its path."""
    caption = join(
        element("b", prediction),
        f" {100 * confidence:.1f} %",
        Markup("<br>"),
        f"is {label}",
        Markup("<br>"),
        element("small", name),
    )
    return card(uri, f"an image of {label}", caption)


def card(uri: str | None, alt: str, caption: Markup) -> Markup:
    """Return an image with a caption; a grey box in place of an image that can no longer be read."""
    shown = picture(uri, alt) if uri else element("div", "no image", {"class": "absent"})
    return element("figure", join(shown, element("figcaption", caption)))


def error_cards(cards: Sequence[Markup], note: str = "") -> Markup:
    """Return the section of errors; empty without any. With a note, each card has two images side by side."""
    if not cards:
        return Markup("")
    shown = element("div", join(*cards), {"class": "mistakes pairs"}) if note else grid(cards)
    return join(paragraph(f"Bold: the predicted class and its probability. {note}", "note"), shown)


def grid(cards: Sequence[Markup]) -> Markup:
    """Return cards in rows."""
    return element("div", join(*cards), {"class": "mistakes"})
