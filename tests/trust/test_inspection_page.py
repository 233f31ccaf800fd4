"""The findings of an inspection as CSV and as a page that escapes everything and shows in a browser."""

import csv
import io
import shutil
import subprocess

import numpy as np
import pytest

from flax_augtl.config.convert import typed_data
from flax_augtl.data.load import examples_of
from flax_augtl.data.types import ArraySource
from flax_augtl.trust import inspection_page
from flax_augtl.trust.copies import CopyPair, find_copies
from flax_augtl.trust.inspection import Inspection
from flax_augtl.trust.label_errors import label_errors
from tests.study.report.test_page import Checked

HOSTILE = "<script>alert(1)</script> & \"x\" 'é' "


def made(class_names=("cat", "=dog"), prefix=""):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 20, 30, 3), np.uint8)
    source = ArraySource(images)
    labels = np.array([0, 0, 1, 1, 0, 1])
    ids = [f"{prefix}{i}.jpg" for i in range(6)]
    parts = {
        "train": examples_of(source, labels[:4], ids[:4], np.arange(4)),
        "test": examples_of(source, labels[4:], ids[4:], np.arange(4, 6)),
    }
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.4, 0.6], [0.6, 0.4], [0.3, 0.7]], np.float32)
    features = rng.normal(size=(6, 4)).astype(np.float32)
    copies = [CopyPair(0, 2, 3, True, False), CopyPair(1, 4, 0, False, True), CopyPair(2, 3, 9, False, False)]
    typical = np.array([0, 0, -9, 0.5, 0, 1], np.float32)
    return Inspection(
        class_names, parts, labels, features, probabilities, label_errors(probabilities, labels), typical, copies,
        ["train"] * 4 + ["test"] * 2, {f"{prefix}broken.jpg": "truncated"}, (f"A note of {prefix or 'nothing'}.",),
    )  # fmt: skip


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_the_table_has_every_image_and_the_most_suspicious_label_first():
    found = rows(inspection_page.as_csv(made()))
    assert [row["path"] for row in found] == ["1.jpg", "3.jpg", "4.jpg", "5.jpg", "2.jpg", "0.jpg"]
    assert found[0] == {
        "path": "1.jpg", "label": "cat", "suggestion": "'=dog", "score": "0.9000", "split": "train",
        "probability": "0.1000", "typicality": "0.00", "unlike_class": "no",
    }  # fmt: skip
    assert [row["suggestion"] for row in found[1:]] == [""] * 5
    assert [row["path"] for row in found if row["unlike_class"] == "yes"] == ["2.jpg"]


def test_the_pairs_are_sorted_into_kinds_and_written_in_order():
    found = made()
    assert [[pair.first for pair in pairs] for _, _, pairs in inspection_page.copy_kinds(found)] == [[0], [1], [2]]
    first, *_ = rows(inspection_page.copies_csv(found))
    assert first == {
        "path": "0.jpg", "split": "train", "label": "cat", "copy_path": "2.jpg", "copy_split": "train",
        "copy_label": "'=dog", "distance": "3", "mirrored": "yes", "equal": "no",
    }  # fmt: skip
    assert inspection_page.summary(found) == [
        "Labels that are probably wrong: 1 of 6.",
        "Near-copies with different labels: 1 pairs.",
        "Near-copies in different splits: 1 pairs.",
        "Near-copies in one class and one split: 1 pairs.",
        "Other images that are unlike their class: 1.",
        "Images that cannot be read: 1.",
        "A note of nothing.",
    ]


def test_the_page_escapes_whatever_names_contain():
    text = inspection_page.page(made((HOSTILE, "b"), HOSTILE), HOSTILE)
    assert "<script" not in text and text.count("&lt;script&gt;") > 10
    assert len(inspection_page.sections(made())) == 4
    Checked(text)


def test_a_section_without_findings_is_empty():
    found = made()
    nothing = Inspection(
        found.class_names, found.parts, found.labels, found.features, found.probabilities,
        label_errors(np.eye(2)[found.labels], found.labels), np.zeros(6), (), found.splits,
    )  # fmt: skip
    assert inspection_page.sections(nothing) == []
    assert inspection_page.summary(nothing)[0] == "Labels that are probably wrong: 0 of 6."


def test_a_browser_shows_the_page(tmp_path):
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium on this machine")
    path = tmp_path / "inspection.html"
    path.write_text(inspection_page.page(made(), "data"), "utf-8")
    shown = subprocess.run(
        [found, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         path.as_uri()],
        capture_output=True, timeout=120, check=True,
    ).stdout.decode()  # fmt: skip
    assert shown.count("<figure>") == 10 and "Labels that are probably wrong" in shown


def test_copies_are_found_within_and_across_the_splits_of_arrays():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)
    train = ArraySource(np.stack([images[0], images[1], images[0]]))
    test = ArraySource(np.stack([images[2], images[1][:, ::-1]]))
    parts = [examples_of(train, np.array([0, 1, 0]), ["a", "b", "c"]), examples_of(test, np.array([1, 1]), ["d", "e"])]
    found = find_copies(parts, typed_data({}))
    assert [(pair.first, pair.second, pair.mirrored, pair.equal) for pair in found] == [
        (0, 2, False, True), (1, 4, True, False),
    ]  # fmt: skip
