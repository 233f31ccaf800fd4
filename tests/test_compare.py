"""Runs side by side."""

import csv
import json

import pytest

from flax_augtl import compare


@pytest.fixture
def runs(tmp_path):
    """Make the directory of a run below the folder, from what differs."""

    def make(name, val, test, *, ids=("a", "b"), metric="top1", result=True, predictions=None, **config):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        whole = {
            "name": name,
            "learning_rate": 0.1,
            "data": {"threads": 8, "shots": None},
            "head": {"new_layers": []},
            "study": {"views": 4},
            **config,
        }
        (folder / "config.json").write_text(json.dumps(whole))
        (folder / "class_names.json").write_text('["x", "y"]')
        (folder / "splits.json").write_text(json.dumps({"fingerprint": "f", "test": list(ids)}))
        figures = {
            split: value and {"top1": value, "mean_per_class": 1 - value, "loss": 2.0, "n": 7}
            for split, value in (("val", val), ("test", test))
        }
        if result:
            (folder / "result.json").write_text(
                json.dumps({**figures, "best_step": 3, "metric": metric, "seconds": 1.25})
            )
        if predictions is not None:  # "xy": an image of class x that is taken for y.
            rows = [f"{i}.png,{label},{said},0.5" for i, (label, said) in enumerate(predictions)]
            (folder / "predictions_test.csv").write_text("\n".join(["path,label,prediction,probability", *rows, ""]))
        return tmp_path

    return make


ABSENT = (
    "predictions_test.csv is missing or cannot be used, so there is no interval and no test: {}. --mode=evaluate "
    "writes it."
)
INTERVALS = "Intervals: 95 % bootstrap over the test images of a run."


def test_the_best_by_validation_comes_first_and_only_differences_are_shown(runs):
    runs("one", 0.5, 0.9, data={"threads": 1, "shots": 5})
    folder = runs("deep/two", 0.75, 0.625, learning_rate=0.2)
    found = compare.compare(compare.find_runs(folder))
    assert found.header == [
        "run",
        "learning_rate",
        "data.shots",
        "val top1",
        "val mean_per_class",
        "val loss",
        "test top1",
        "test mean_per_class",
        "test loss",
        "test examples",
        "best step",
        "seconds",
    ]
    assert found.rows == [
        ["deep/two", "0.2", "–", "0.7500", "0.2500", "2.0000", "0.6250", "0.3750", "2.0000", "7", "3", "1.2"],
        ["one", "0.1", "5", "0.5000", "0.5000", "2.0000", "0.9000", "0.1000", "2.0000", "7", "3", "1.2"],
    ]
    assert found.notes == ["The first run is the best by validation (top-1).", ABSENT.format("deep/two, one")]


def test_the_metric_of_the_runs_decides(runs):
    runs("one", 0.5, 0.9, metric="mean_per_class")
    folder = runs("two", 0.75, 0.625, metric="mean_per_class")
    found = compare.compare(compare.find_runs(folder))
    assert [row[0] for row in found.rows] == ["one", "two"]
    assert found.notes == ["The first run is the best by validation (mean per class).", ABSENT.format("one, two")]


def test_what_cannot_be_compared_is_said(runs):
    runs("a", None, 0.9, ids=("c",))
    runs("b", 0.5, 0.5)
    folder = runs("c", 0.5, 0.5, result=False)
    found = compare.compare(compare.find_runs(folder))
    assert [row[0] for row in found.rows] == ["b", "a", "c"]
    assert found.notes == [
        "The first run is the best by validation (top-1).",
        "Runs without validation results come last: choose between runs by validation, not by the test split.",
        "The runs were tested on different examples, so their test results cannot be compared.",
        "Not finished: c.",
        ABSENT.format("b, a"),
    ]


def test_runs_on_the_same_images_have_a_paired_test_against_the_best_by_validation(runs):
    runs("best", 0.75, 0.5, predictions=["xx"] * 10 + ["xy"] * 2)
    runs("worse", 0.5, 0.5, predictions=["xx"] * 2 + ["xy"] * 10)
    runs("alike", 0.5, 0.5, predictions=["xx"] * 10 + ["xy"] * 2)
    folder = runs("other", 0.25, 0.5, predictions=["yy"] * 12)
    found = compare.compare(compare.find_runs(folder))
    places = [found.header.index(name) for name in ("run", "test top1 95 %", "minus best", "p", "Holm")]
    rows = [[row[i] for i in places] for row in found.rows]
    # 8 images against none: 2 / 2^8, and twice that for two comparisons.
    assert [row[:1] + row[2:] for row in rows] == [
        ["best", "–", "–", "–"],
        ["alike", "+0.0000", "1.000", "1.000"],
        ["worse", "-0.6667", "0.008", "0.016"],
        ["other", "–", "–", "–"],
    ]
    assert all(row[1].startswith("[") for row in rows)
    assert found.notes == [
        "The first run is the best by validation (top-1).",
        INTERVALS,
        "p: exact McNemar test against best on the same 12 test images; Holm: p corrected for the number of comparisons.",
        "This test is about other images of the same kind, with these trained networks; not about training again.",
        "No paired test with best, because the test images or their labels differ: other.",
    ]


def test_a_tie_by_validation_is_told(runs):
    runs("a", 0.5, 0.5, predictions=["xx", "xy"])
    folder = runs("b", 0.5, 0.5, predictions=["xx", "xx"])
    found = compare.compare(compare.find_runs(folder))
    assert found.notes[0] == "Best by validation (top-1): a tie of 2 runs, a, b."
    assert "exact McNemar test against a on the same 2 test images." in found.notes[2] and "Holm" not in found.header


def test_without_validation_no_run_is_tested_against_another(runs):
    runs("a", None, 0.5, predictions=["xx", "xy"])
    folder = runs("b", None, 0.5, predictions=["xx", "xx"])
    found = compare.compare(compare.find_runs(folder))
    assert found.notes == [
        "Runs without validation results come last: choose between runs by validation, not by the test split.",
        INTERVALS,
    ]
    assert "p" not in found.header and "test top1 95 %" in found.header


def test_csv_and_html_hold_the_table_and_names_do_nothing(runs):
    folder = runs("=<b>x", 0.5, 0.5)
    found = compare.compare(compare.find_runs(folder))
    paths = compare.write(folder, found)
    assert [path.name for path in paths] == ["compare.csv", "compare.html"]
    rows = list(csv.reader(paths[0].read_text().splitlines()))
    assert rows[0] == found.header and rows[1][0] == "'=<b>x"
    page = paths[1].read_text()
    assert "=&lt;b&gt;x" in page and "<b>" not in page
    # Its own files are no runs.
    assert len(compare.find_runs(folder)) == 1


def test_a_folder_without_runs_is_told(tmp_path):
    with pytest.raises(ValueError, match="there is no run in it or below it"):
        compare.find_runs(tmp_path)
    with pytest.raises(ValueError, match="there is no such folder"):
        compare.find_runs(tmp_path / "absent")
