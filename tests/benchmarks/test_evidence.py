"""The tables and the figure of several studies, from made-up ones."""

import json

import pytest

from flax_augtl.benchmarks import evidence
from flax_augtl.study.report.spreadsheet import study_csv
from flax_augtl.training.statistics import bca_interval
from tests.study import pretended


@pytest.fixture
def folder(tmp_path):
    made = pretended.study(("traditional", "kept"), ("layer4", "fc"), finals_by_depth=False)
    seconds = {f"{head} {depth} pretrained": 50.0 for head in ("traditional", "kept") for depth in ("layer4", "fc")}
    (tmp_path / "study.csv").write_text(study_csv(made))
    (tmp_path / "config.json").write_text(json.dumps({"name": "flowers12_resnet18_5"}))
    (tmp_path / "timing.json").write_text(json.dumps({"cell_seconds": seconds}))
    (tmp_path / "fill-train.json").write_text(json.dumps({"seconds": 61.0}))
    return tmp_path


def test_every_head_is_compared_with_the_traditional_one_by_seed(folder):
    traditional, kept = evidence.results(evidence.read(folder))
    assert traditional.differences == [] and kept.settings == 4 and len(kept.test) == 6
    pairs = [kept.test[seed] - traditional.test[seed] for seed in range(6)]
    assert kept.differences == pairs
    mean, low, high = bca_interval([100 * pair for pair in pairs])
    table = evidence.markdown(evidence.read(folder))
    assert f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−") in table
    # A made-up curve reaches 90 % of its end at the fourth of ten evaluations, 320 examples each, of 800.
    assert kept.pace[0] == pytest.approx((4 * 320 / 800, 5 * 320 / 800))


def test_planned_and_actual_time_stand_side_by_side(folder):
    study = evidence.read(folder)
    assert (
        evidence.cost(study) == f"{len(study.rows)} trainings: 40:00 planned, 1:20:00 taken; 1:01 for the activations."
    )


def test_the_figure_has_a_row_for_each_study_and_a_column_for_each_head(folder, capsys):
    pytest.importorskip("matplotlib")
    evidence.main([str(folder), f"--figure={folder / 'figure.svg'}"])
    drawn = (folder / "figure.svg").read_text()
    assert "flowers12 resnet18 5" in drawn and "kept" in drawn and ">traditional<" not in drawn
    assert "### flowers12_resnet18_5" in capsys.readouterr().out


def test_a_folder_that_is_no_study_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        evidence.main([str(tmp_path)])
    assert "is not a finished study: it has no study.csv." in capsys.readouterr().err
