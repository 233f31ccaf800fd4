"""The report of a made-up evaluation: its sections, what it escapes, and how a browser shows it."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from flax_augtl.training import metrics
from flax_augtl.training.evaluation import Evaluation
from flax_augtl.trust.calibration import Calibration
from flax_augtl.trust.report import parts, sections
from flax_augtl.trust.report.page import page
from flax_augtl.trust.report.subject import FamiliarImages, Subject
from flax_augtl.trust.report.write import name_of, write_report
from tests.html_page import Checked, browser, check_in_browser
from tests.trust.test_inspection_page import made

HOSTILE = "<script>alert(1)</script> & \"$x_$\" 'é' "


def evaluated(classes=3, images=60, ids=None, noise=1.0):
    """An evaluation of predictions that are sure and often wrong."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) % classes
    logits = (4 * (np.eye(classes)[labels] + noise * rng.normal(size=(images, classes)))).astype(np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    losses = -np.log(probabilities[np.arange(images), labels])
    sums = metrics.add([metrics.evaluation_sums(logits, losses, labels, np.ones(images, np.float32))])
    return Evaluation(sums, labels, probabilities, ids or tuple(f"{i}.png" for i in range(images)))


def subject(**changes):
    """A report's subject with everything in it."""
    history = [{"step": step, "split": split, "loss": 1 / step, "top1": 0.5, "mean_per_class": 0.4}
               for step in range(1, 8) for split in ("train", "val")]  # fmt: skip
    usual = {
        "name": "first", "split": "test", "step": 6, "evaluated": evaluated(), "class_names": ("ant", "bee", "cat"),
        "calibration": Calibration(2.0, 6, 50, "Fitted to the log-loss of 50 validation images."),
        "familiar": FamiliarImages(np.arange(60), np.linspace(0.02, 1, 60), 0.05, 50), "familiar_note": "",
        "image": lambda row: np.full((9, 12, 3), 2 * row, np.uint8), "confusion": None,
        "config": {"network": "resnet20", "head": {"preset": "kept"}, "freeze": "none"},
        "source": {"network": "resnet20", "terms": {"origin": "embedded:glyphs", "licence": "CC0-1.0"}},
        "counts": {"train": 1200, "val": 50, "test": 60}, "history": history, "seconds": 61.0, "steps": 7,
        "parameters": 272474, "versions": {"jax": "0.10.2"}, "notes": ("2 images were skipped.",),
        "overlays": lambda rows, classes: [Image.new("RGB", (24, 10), (int(row), 0, 0)) for row in rows],
        "inspection": made(), "inspection_note": "6 of 60 images were looked at.",
    }  # fmt: skip
    return Subject(**{**usual, **changes})


def test_every_section_has_content_and_the_figures_are_those_of_the_evaluation():
    shown, text = subject(), page(subject())
    Checked(text)
    for title in ("Verdict", "Learning curves", "Metrics", "Confusion", "Most confident errors", "Calibration",
                  "Unknown images", "Labels and odd images", "Classes", "Data", "Cost and versions", "Config"):  # fmt: skip
        assert f"<h2>{title}</h2>" in text
    low, high = shown.evaluated.intervals["top1"]
    assert f"[{low:.4f}, {high:.4f}]" in text and f"{100 * low:.1f} to {100 * high:.1f} % (95 % interval)" in text
    assert "With temperature 2 the expected calibration error is" in text
    assert "<th>training images</th><td>1 200</td>" in text and "<td>1:01 min</td>" in text or "training time" in text
    assert "2 of 60 images (3.3 %) look unlike the training images (familiarity below 0.05)." in text
    assert text.count('<img src="data:image/svg+xml') == 4


def test_the_most_confident_errors_come_first_at_their_calibrated_probability():
    shown = subject()
    wrong = np.flatnonzero(shown.probabilities.argmax(1) != shown.evaluated.labels)
    first = max(wrong, key=lambda row: shown.probabilities[row].max())
    text = str(sections.errors(shown))
    said = shown.class_names[int(shown.probabilities[first].argmax())]
    assert text.index(f"<b>{said}</b> {100 * shown.probabilities[first].max():.1f} %") < text.index("</figure>")
    assert f"<small>{first}.png</small>" in text[: text.index("</figure>")]
    assert text.count("<figure>") == min(len(wrong), 12)


def test_errors_are_shown_beside_what_speaks_for_the_prediction():
    asked = []

    def overlays(rows, classes):
        asked.append((rows, classes))
        return [Image.new("RGB", (24, 10)) for _ in rows]

    shown = subject(overlays=overlays)
    text = str(sections.errors(shown))
    ((rows, classes),) = asked
    assert np.array_equal(classes, shown.probabilities.argmax(1)[rows])
    assert (classes != shown.evaluated.labels[rows]).all()
    assert "The right half of an image shows what speaks for the predicted class" in text and text.count("<img") == len(
        rows
    )


def test_the_section_on_labels_says_what_was_found_and_names_no_file_that_is_not_there():
    text = str(sections.inspection(subject()))
    assert "Labels that are probably wrong: 1 of 6." in text and "6 of 60 images were looked at." in text
    assert "<h3>Near-copies</h3>" in text and ".csv" not in text
    assert str(sections.inspection(subject(inspection=None, inspection_note="Not inspected."))) == (
        '<p class="note">Not inspected.</p>'
    )


def test_the_page_escapes_whatever_names_contain():
    ids = tuple(f"{HOSTILE}{i}" for i in range(60))
    text = page(
        subject(
            name=HOSTILE, class_names=(HOSTILE, "b", "c"), evaluated=evaluated(ids=ids), notes=(HOSTILE,),
            config={"network": HOSTILE, "data": {HOSTILE: HOSTILE}}, versions={HOSTILE: HOSTILE},
            source={"network": HOSTILE, "terms": {"origin": HOSTILE, "licence": HOSTILE}}, familiar_note=HOSTILE,
            calibration=Calibration(2.0, 6, 50, HOSTILE), inspection=made((HOSTILE, "b"), HOSTILE), inspection_note=HOSTILE,
        )
    )  # fmt: skip
    assert "<script" not in text and text.count("&lt;script&gt;") > 20
    Checked(text)


def broken(*arguments):
    raise OSError("gone")


@pytest.mark.parametrize("changes", [
    {"calibration": None, "familiar": None, "familiar_note": "No familiarity: no validation split."},
    {"calibration": Calibration(None, 6, 0, "Not calibrated: there is no validation split."), "history": ()},
    {"evaluated": evaluated(noise=0.0), "calibration": Calibration(1.0, 6, 50, "The temperature stays 1.")},
    {"image": None, "confusion": b"png", "seconds": None, "steps": None, "counts": {}, "notes": ()},
    {"image": broken, "split": "all"},
    {"overlays": broken, "inspection": None, "inspection_note": ""},
    {"overlays": None},
    {"class_names": tuple(map(str, range(60))), "evaluated": evaluated(60, 120), "familiar": None},
    {"evaluated": dataclasses.replace(evaluated(), probabilities=None), "familiar": None},
])  # fmt: skip
def test_any_evaluation_can_be_reported(changes):
    Checked(page(subject(**changes)))


def test_without_an_error_the_verdict_says_so():
    assert "No image is classified wrongly." in sections.sentences(subject(evaluated=evaluated(noise=0.0)))
    assert sections.errors(subject(evaluated=evaluated(noise=0.0))) == ""


def test_confused_pairs_are_the_largest_off_diagonal_counts():
    matrix = np.array([[5, 2, 0], [1, 6, 3], [0, 0, 9]])
    assert parts.confused_pairs(matrix, ("a", "b", "c")) == [("b", "c", 3, 10), ("a", "b", 2, 7), ("b", "a", 1, 10)]


def test_names_of_reports():
    names = [name_of("test"), name_of("val"), name_of("test", 40), name_of("all", 40)]
    assert names == ["report.html", "report_val.html", "report_test_step40.html", "report_all_step40.html"]


@pytest.mark.parametrize("width", [1400, 500])  # Chromium's windows cannot be narrower.
def test_a_browser_shows_every_section_without_network_requests(width, tmp_path):
    browser()
    shown = subject(class_names=(HOSTILE, "bee", "cat"))
    write_report(tmp_path / "report.html", shown)
    dom = check_in_browser(tmp_path / "report.html", width, tmp_path)
    for title, content in page_sections(shown):
        assert content and f"<h2>{title}</h2>" in dom


def page_sections(shown):
    """The sections of a report."""
    from flax_augtl.trust.report.page import sections

    return sections(shown)
