"""The page of a made-up study, and how a browser shows it."""

import dataclasses
import re

import numpy as np
import pytest

from flax_augtl.config.heads import PRESETS
from flax_augtl.study.report import (
    figures,
    formatting,
    mistakes,
    queries,
    tables,
    terminal_table,
    verdict,
    write_report,
)
from flax_augtl.study.report.page import page
from tests.html_page import Checked, browser, check_in_browser
from tests.study import pretended

HOSTILE = "<script>alert(1)</script> & \"$x_$\" 'é' "


@pytest.fixture(scope="module")
def result():
    return pretended.study()


def test_the_page_escapes_whatever_names_contain():
    study = pretended.study(
        (HOSTILE, "kept"),
        seeds=2,
        class_names=(HOSTILE, "b"),
        notes=(HOSTILE,),
        leakage=(HOSTILE,),
        config={"name": HOSTILE, "data": {HOSTILE: HOSTILE}},
        versions={HOSTILE: HOSTILE},
    )
    study.predictions["id"][:] = [f"{HOSTILE}{index}" for index in range(500)]
    study.rows[0].update(error=HOSTILE, cell=HOSTILE)
    text = page(study)
    assert "<script" not in text and text.count("&lt;script&gt;") > 20
    Checked(text)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {"heads": ("kept",), "depths": ("layer4",), "seeds": 1, "leep": None, "finals_by_depth": False, "predictions": None},
    {"heads": (*PRESETS, "mine"), "classes": 102, "seeds": 2, "depths": ("none", "layer4")},
    {"heads": ("kept",), "seeds": 2, "image": None, "leakage": (), "versions": {}, "notes": ()},
    {"rows": [], "winners": {}, "best": None, "leep": None, "predictions": None},
    {"rows": [pretended.trial("select", "kept", "stem", 0.1, 0, 0.5, val=None, history=[], change={}, diverged=True),
              pretended.trial("select", "kept", "none", 0.1, 0, 0.5, val=None, history=[], change={}, error="killed")],
     "winners": {}, "best": None, "leep": None, "predictions": None},
])  # fmt: skip
def test_any_study_can_be_reported(changes, tmp_path):
    study = pretended.study(**changes)
    write_report(study, tmp_path)
    Checked((tmp_path / "report.html").read_text("utf-8"))
    assert len((tmp_path / "study.csv").read_text().splitlines()) == len(study.rows) + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "study.csv"]
    assert terminal_table(study) and verdict(study)
    if not study.winners:
        assert verdict(study)[0] == "There is no result: every trial failed or diverged."


def test_file_names_that_are_not_unicode_can_be_reported(tmp_path):
    study = pretended.study(("kept",), ("stem",), 1)
    study.predictions["id"][:] = ["b\udce9.jpg"] * 500
    write_report(study, tmp_path)
    assert r"b\udce9.jpg" in (tmp_path / "report.html").read_text("utf-8")


def test_a_point_of_a_shorter_training_is_hollow():
    study = pretended.study(("kept",), ("none", "stem"), 1, finals_by_depth=False)
    ((alike, _),) = figures.depth_figures(study, "val")
    for row in study.rows:
        row["steps"] = 30 if row["depth"] == "none" else 100
    ((unlike, _),) = figures.depth_figures(study, "val")
    assert alike.count("fill: #ffffff; stroke: #0072b2") == 0 != unlike.count("fill: #ffffff; stroke: #0072b2")


def test_the_same_study_gives_the_same_page():
    one, two = (pretended.study(("kept",), ("none", "stem"), 2) for _ in range(2))
    assert page(one) == page(two)


def test_many_heads_get_a_figure_each():
    assert len(figures.depth_figures(pretended.study(seeds=2), "val")) == 1
    drawn = figures.depth_figures(pretended.study([*PRESETS][:5], seeds=2), "val")
    assert len(drawn) == 6 and drawn[1][1].startswith("traditional: mean per-class accuracy on validation")
    assert all(svg.lstrip().startswith("<?xml") for svg, _ in drawn)


def test_relative_changes_are_means_over_seeds_with_a_column_for_each_group(result):
    text = page(result)
    section = text[text.index('id="change-of') :]
    assert re.findall(r"<th>([^<]*)</th>", section)[:8] == ["Head", "Freeze depth", *pretended.GROUPS]
    runs = queries.finals(result, "kept", "layer2").values()
    assert f">{np.mean([row['change']['layer4'] for row in runs]):.2g}</td>" in section


def test_errors_are_counted_and_the_most_confident_come_first(result):
    study = dataclasses.replace(
        result,
        class_names=("a", "b", "c"),
        predictions={
            "id": ["0", "1", "2", "3", "4"],
            "label": [0, 0, 0, 1, 2],
            "prediction": [1, 1, 0, 2, 2],
            "confidence": [0.5, 0.7, 0.9, 0.6, 0.8],
        },
    )
    assert mistakes.confused_pairs(study) == [("a", "b", 2, 3), ("b", "c", 1, 1)]
    assert mistakes.confident_mistakes(study) == [
        (1, "1", "a", "b", 0.7),
        (3, "3", "b", "c", 0.6),
        (0, "0", "a", "b", 0.5),
    ]
    assert mistakes.confusion(study).tolist() == [[1, 2, 0], [0, 0, 1], [0, 0, 1]]


def test_a_missing_image_does_not_cost_the_report(result):
    def gone(index):
        raise FileNotFoundError(index)

    assert "no image" in page(dataclasses.replace(result, image=gone))


def test_intervals_over_seeds_and_images_are_labelled():
    """With two seeds, the page shows their values, and intervals only over images."""
    study = pretended.study(("traditional", "kept"), seeds=2)
    line = tables.summary(study)[1]
    text = page(study)
    values, images = formatting.over_seeds(line.test), formatting.over_images(line.test)
    assert f"<small>seeds: {values}</small><br><small>images: {images}</small>" in text
    assert re.fullmatch(r"\d\d\.\d, \d\d\.\d", values) and re.fullmatch(r"\[\d\d\.\d, \d\d\.\d\]", images)
    difference = line.difference
    assert (
        f"<small>seeds: {formatting.probability(difference.p)}</small><br><small>images: "
        f"{formatting.probability(difference.images.p)}</small>"
    ) in text
    assert "<b>Seeds:</b> 95 % BCa bootstrap interval over seeds; with fewer than six seeds, the value" in text
    assert "<b>Images:</b> 95 % bootstrap interval over the 500 test images; p: paired sign-flip test" in text


def test_the_metrics_of_the_winner_are_shown_and_undefined_ones_are_a_dash(result):
    text = page(result)
    section = text[text.index('id="metrics-of-the-winner') : text.index('id="most-confident')]
    assert "<th>Cohen&#x27;s kappa</th><td>0.7000</td>" in section and "<th>ROC AUC, mean</th><td>–</td>" in section
    assert "[0.7700, 0.8500]" in section and "<th>class 0</th><td>5</td><td>0.8000</td><td>–</td>" in section


@pytest.mark.parametrize("width", [1400, 500])  # Chromium's windows cannot be narrower.
def test_a_browser_shows_every_section_without_network_requests(width, tmp_path):
    browser()
    study = pretended.study(("traditional", "kept", HOSTILE), seeds=2, class_names=(HOSTILE, "tench"))
    study.rows[0].update(error="killed")
    write_report(study, tmp_path)
    dom = check_in_browser(tmp_path / "report.html", width, tmp_path)
    for name in (
        "Verdict",
        "Accuracy against freeze depth",
        "Heads at their chosen depth",
        "Questions",
        "Every freeze depth",
        "Learning curves",
        "Change of the pretrained weights",
        "Confusion",
        "Metrics of the winner",
        "Most confident errors",
        "Source classes related to each target class",
        "Leakage",
        "Data and compute",
        "Trials without a result",
        "Config",
    ):
        assert f"<h2>{name}</h2>" in dom
    assert dom.count("<script") == 1, "the probe's own"
