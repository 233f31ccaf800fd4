"""The sections of a report; each is a function of the subject, and empty if it has nothing to show."""

import json

import numpy as np
from PIL import Image

from flax_augtl.runtime.markup import Markup, details, element, join, paragraph, table
from flax_augtl.runtime.text import duration, readable
from flax_augtl.trust import calibration, inspection_page
from flax_augtl.trust.familiarity import FEW
from flax_augtl.trust.report import charts, parts
from flax_augtl.trust.report.subject import Subject
from flax_augtl.trust.thumbnails import SIDE, data_uri

NAMES = {"train": "training", "val": "validation", "test": "test", "all": "other"}
_ERRORS = 12
_UNFAMILIAR = 12
_SUSPECTS = 12
_EVIDENCE = (
    "The right half of an image shows what speaks for the predicted class: the redder or yellower a place, the more it "
    "does."
)
_FEW_IMAGES = 10


def verdict(subject: Subject) -> Markup:
    """Return the most important findings as sentences."""
    return element("ul", join(*(element("li", sentence) for sentence in sentences(subject))))


def sentences(subject: Subject) -> list[str]:
    """Return the most important findings."""
    evaluated, values = subject.evaluated, subject.values
    low, high = evaluated.intervals["top1"]
    found = [
        f"Top-1 accuracy {100 * values['top1']:.1f} % on {values['n']} {NAMES[subject.split]} images; on other images of "
        f"the same kind, {100 * low:.1f} to {100 * high:.1f} % (95 % interval)."
    ]
    pairs = parts.confused_pairs(evaluated.confusion.round().astype(np.int64), subject.class_names, 1)
    if pairs:
        label, other, count, total = pairs[0]
        found.append(f"Most frequent confusion: {count} of {total} images of {label} are taken for {other}.")
    else:
        found.append("No image is classified wrongly.")
    if subject.temperature is None:
        reason = subject.calibration.note if subject.calibration else "Not calibrated."
        found.append(f"{reason} Expected calibration error: {parts.number(values['calibration_error'])}.")
    elif "calibration_error_calibrated" in values:
        found.append(
            f"With temperature {subject.temperature:.3g} the expected calibration error is "
            f"{values['calibration_error_calibrated']:.4f} (without: {values['calibration_error']:.4f})."
        )
    if subject.familiar is not None:
        familiar = subject.familiar
        marked = int((familiar.values < familiar.below).sum())
        found.append(
            f"{marked} of {len(familiar.values)} images ({100 * marked / max(len(familiar.values), 1):.1f} %) look unlike "
            f"the training images (familiarity below {familiar.below:g})."
        )
    few = [row["label"] for row in evaluated.class_table(tuple(subject.class_names)) if 0 < row["n"] < _FEW_IMAGES]
    if few:
        found.append(
            f"{len(few)} class{'es' * (len(few) != 1)} with fewer than {_FEW_IMAGES} images: their own figures are coarse."
        )
    return found


def curves(subject: Subject) -> Markup:
    """Return the learning curves."""
    drawn = charts.learning_curves(subject.history, subject.step)
    if not drawn:
        return Markup("")
    return join(
        element("div", join(*drawn), {"class": "figures"}),
        paragraph(
            "The loss of training batches includes augmentation, label smoothing and class weights, if they are set. The "
            "dotted line is the step of the weights that this report is about.",
            "note",
        ),
    )


def metrics(subject: Subject) -> Markup:
    """Return all metrics with their intervals."""
    return join(
        parts.metrics_table(subject.values, subject.evaluated.intervals),
        paragraph(
            "The intervals show how much a figure could differ on other images of the same kind, with this same network; "
            "not how much it could differ after training again.",
            "note",
        ),
    )


def confusion(subject: Subject) -> Markup:
    """Return the confusion matrix."""
    matrix = subject.evaluated.confusion.round().astype(np.int64)
    drawn = len(subject.class_names) <= parts.MOST_CLASSES
    uri = (
        parts.png_uri(subject.confusion)
        if subject.confusion and drawn
        else parts.confusion_uri(matrix, subject.class_names)
    )
    pairs = parts.confused_pairs(matrix, subject.class_names)
    return parts.confusion_section(uri, pairs, "confusion matrix") if uri or pairs else Markup("")


def classes(subject: Subject) -> Markup:
    """Return the table of all classes."""
    return join(
        parts.class_table(subject.evaluated.class_table(tuple(subject.class_names))),
        paragraph(parts.CLASSES_NOTE, "note"),
    )


def errors(subject: Subject) -> Markup:
    """Return the most confident errors with their images."""
    probabilities, labels = subject.probabilities, subject.evaluated.labels
    if probabilities is None:
        return Markup("")
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.lexsort((wrong, -confidence[wrong]))][:_ERRORS]
    drawn = _drawn(subject, wrong, predicted[wrong])
    cards = [
        parts.error_card(
            shown(subject, row) if image is None else data_uri(image, 2 * SIDE),
            subject.class_names[int(labels[row])],
            subject.class_names[int(predicted[row])],
            float(confidence[row]),
            name_of(subject, row),
        )
        for row, image in zip(wrong.tolist(), drawn, strict=True)
    ]
    note = "" if drawn[:1] in ([], [None]) else _EVIDENCE
    return parts.error_cards(cards, note)


def _drawn(subject: Subject, rows: np.ndarray, classes: np.ndarray) -> list[Image.Image | None]:
    """Return some images of the split beside what speaks for a class in them; None where that cannot be drawn."""
    if subject.overlays is None or not len(rows):
        return [None] * len(rows)
    try:
        return list(subject.overlays(rows, classes))
    except (OSError, ValueError):
        return [None] * len(rows)  # A missing file must not cost the report.


def inspection(subject: Subject) -> Markup:
    """Return the labels that are probably wrong, and odd images."""
    note = paragraph(subject.inspection_note, "note") if subject.inspection_note else ""
    if subject.inspection is None:
        return join(note)
    found = inspection_page.sections(subject.inspection, _SUSPECTS, listed=False)
    return join(
        element("ul", join(*(element("li", line) for line in inspection_page.summary(subject.inspection)))),
        note,
        *(join(element("h3", title), content) for title, content in found),
    )


def shown(subject: Subject, row: int) -> str | None:
    """Return an image of the split as a data URI; None if it cannot be read."""
    if subject.image is None:
        return None
    try:
        return data_uri(Image.fromarray(np.asarray(subject.image(row))))
    except (OSError, ValueError):
        return None  # A missing file must not cost the report.


def name_of(subject: Subject, row: int) -> str:
    """Return the path of an image of the split."""
    return readable(subject.evaluated.ids[row]) if len(subject.evaluated.ids) else f"image {row}"


def reliability(subject: Subject) -> Markup:
    """Return the reliability diagram, and what the temperature changes."""
    before, after = subject.evaluated.probabilities, subject.probabilities
    if before is None or after is None or not np.isfinite(before).all():
        return Markup("")
    labels, values = subject.evaluated.labels, subject.values
    temperature = subject.temperature
    bins = calibration.reliability(after, labels) if temperature is not None else None
    drawn = charts.reliability_diagram(calibration.reliability(before, labels), bins)
    rows = [
        [name, parts.number(values[key]), parts.number(values[f"{key}_calibrated"])]
        for name, key in (("log-loss", "loss"), ("expected calibration error", "calibration_error"))
        if f"{key}_calibrated" in values
    ]
    note = subject.calibration.note if subject.calibration else "Not calibrated."
    seen = " These are the images that the temperature was fitted to." if subject.split == "val" and rows else ""
    return join(
        element("div", drawn, {"class": "figures"}),
        table(["", "as trained", f"temperature {temperature:.3g}"], rows) if rows and temperature is not None else "",
        paragraph(
            f"{note}{seen} Confidence is the probability of the predicted class. Where points lie below the diagonal, the "
            "network is right less often than its confidence says. Large points stand for many images.",
            "note",
        ),
    )


def unknown(subject: Subject) -> Markup:
    """Return how familiar the images look, and the least familiar ones."""
    familiar = subject.familiar
    if familiar is None:
        return paragraph(subject.familiar_note, "note") if subject.familiar_note else Markup("")
    order = np.argsort(familiar.values, kind="stable")[:_UNFAMILIAR]
    probabilities, cards = subject.probabilities, []
    for place in order.tolist():
        row = int(familiar.rows[place])
        said = "" if probabilities is None else subject.class_names[int(probabilities[row].argmax())]
        caption = join(
            element("b", f"familiarity {familiar.values[place]:.3f}"),
            Markup("<br>"),
            f"predicted {said}" if said else "",
            Markup("<br>"),
            f"is {subject.class_names[int(subject.evaluated.labels[row])]}",
            Markup("<br>"),
            element("small", name_of(subject, row)),
        )
        cards.append(parts.card(shown(subject, row), "an unfamiliar image", caption))
    some = len(familiar.values) < len(subject.evaluated.labels)
    coarse = f" There are fewer than {FEW} of them, so the values are coarse." if familiar.validation < FEW else ""
    return join(
        element("div", charts.familiarity_histogram(familiar.values, familiar.below), {"class": "figures"}),
        paragraph(
            f"Familiarity is the share of the {familiar.validation} validation images that look less like the training "
            f"images than this one does.{coarse} Images like the validation images have every familiarity equally often "
            "(the dotted line). Images of none of the classes have low ones. "
            + (f"Of this split, {len(familiar.values)} evenly spaced images were looked at." if some else ""),
            "note",
        ),
        element("h3", "Least familiar images"),
        parts.grid(cards),
    )


def data(subject: Subject) -> Markup:
    """Return how many images there are."""
    rows = [[f"{NAMES.get(split, split)} images", f"{count:,}".replace(",", " ")]
            for split, count in subject.counts.items()]  # fmt: skip
    notes = element("ul", join(*(element("li", note) for note in subject.notes))) if subject.notes else ""
    return join(table(["", ""], [*rows, ["classes", len(subject.class_names)]]), notes)


def cost(subject: Subject) -> Markup:
    """Return what was computed, for how long, and with which versions."""
    terms = subject.source.get("terms") or {}
    rows = [
        ["network", subject.source.get("network", "–")],
        ["parameters", f"{subject.parameters:,}".replace(",", " ")],
        *([["source weights", terms.get("origin") or "random"]]),
        *([["licence of the source weights", terms["licence"]]] if "licence" in terms else []),
        *([["training time", duration(subject.seconds)]] if subject.seconds is not None else []),
        *([["steps", subject.steps]] if subject.steps is not None else []),
        *([name, version] for name, version in subject.versions.items()),
    ]
    return table(["", ""], rows, wrap=True)


def config(subject: Subject) -> Markup:
    """Return the whole configuration, folded."""
    text = json.dumps(subject.config, indent=2, ensure_ascii=False, default=str)
    return details("Every field", element("pre", text))
