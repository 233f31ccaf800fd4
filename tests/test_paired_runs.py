"""Predictions of runs: what can be used, and tests by hand."""

import numpy as np
import pytest
from scipy import stats

from flax_augtl import paired_runs


def write(folder, rows, header="path,label,prediction,probability"):
    folder.mkdir(exist_ok=True)
    (folder / "predictions_test.csv").write_text("\n".join([header, *rows, ""]))
    return folder


@pytest.mark.parametrize(
    "rows, header",
    [
        ([], "path,label,prediction,probability"),
        (["a,x,x,1", "a,x,x,1"], "path,label,prediction,probability"),
        (["a,x"], "path,label,prediction,probability"),
        (["a,x,1"], "path,label,probability"),
        (["a,x,x,1"], ""),
    ],
)
def test_files_that_cannot_be_used(tmp_path, rows, header):
    assert paired_runs.read_tested(write(tmp_path, rows, header)) is None


def test_neither_no_file_nor_a_folder_nor_bytes_are_predictions(tmp_path):
    assert paired_runs.read_tested(tmp_path) is None
    (tmp_path / "predictions_test.csv").mkdir()
    assert paired_runs.read_tested(tmp_path) is None
    (tmp_path / "predictions_test.csv").rmdir()
    (tmp_path / "predictions_test.csv").write_bytes(b"\xff\x00")
    assert paired_runs.read_tested(tmp_path) is None


def test_an_image_in_two_folds_cannot_be_used(tmp_path):
    one, two = write(tmp_path / "0", ["a,x,x,1"]), write(tmp_path / "1", ["b,x,y,1"])
    assert paired_runs.read_tested(one, two) == ({"a": "x", "b": "x"}, frozenset({"a"}))
    assert paired_runs.read_tested(one, one) is None


def test_each_class_counts_the_same_where_the_metric_says_so():
    label = {**{f"a{i}": "a" for i in range(8)}, **{f"b{i}": "b" for i in range(2)}}
    every = paired_runs.Tested(label, frozenset(label))
    none_of_b = paired_runs.Tested(label, frozenset(name for name in label if name[0] == "a"))
    found = paired_runs.paired({"every": every, "none": none_of_b}, "every", "mean_per_class")
    assert found["none"].value == pytest.approx(0.5) and found["none"].difference == pytest.approx(-0.5)
    assert found["none"].p == pytest.approx(0.5)
    assert paired_runs.paired({"every": every, "none": none_of_b}, "every", "top1")["none"].difference == pytest.approx(
        -0.2
    )


def test_the_order_of_the_rows_does_not_matter_and_p_is_mcnemars():
    rng = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(60)]
    right = [{name for name in names if rng.random() < share} for share in (0.8, 0.6)]
    one = paired_runs.Tested(dict.fromkeys(names, "x"), frozenset(right[0]))
    other = paired_runs.Tested(dict.fromkeys(reversed(names), "x"), frozenset(right[1]))
    only = len(right[0] - right[1]), len(right[1] - right[0])
    found = paired_runs.paired({"one": one, "other": other}, "one", "top1")["other"]
    assert found.p == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)
    assert found.difference == pytest.approx((only[1] - only[0]) / 60) and found.images == 60
