"""A study over all folds: a study for each fold, and their summary."""

import csv
import json
import re

import pytest

from flax_augtl import folds_page, modes
from flax_augtl.study import folds
from flax_augtl.study.study import study
from tests.study import pretended
from tests.study.test_study import study_config

pytestmark = pytest.mark.slow


def config(**changes):
    made = study_config(heads=("kept",), learning_rates=(0.05,), seeds=(0,), **changes)
    made.data.folds = 2
    return made


def test_each_fold_is_a_study_of_its_own_held_out_images(tmp_path, capsys):
    assert folds.study_folds(config(), tmp_path, dry_run=True) is None
    assert "This is one of 2 folds: all of them take about 2 times as long." in capsys.readouterr().out
    summary = folds.study_folds(config(), tmp_path)
    said = capsys.readouterr().out
    tested = [json.loads((tmp_path / f"fold{k}" / "best" / "splits.json").read_text())["test"] for k in range(2)]
    assert len({*tested[0], *tested[1]}) == len(tested[0]) + len(tested[1]) == 1797
    rows = [json.loads(next((tmp_path / f"fold{k}" / "cells").glob("final-*")).read_text()) for k in range(2)]
    assert [row["test"] for row in summary["rows"]] == [row["test"]["top1"] for row in rows]
    mean = sum(row["test"]["top1"] for row in rows) / 2
    assert summary["heads"]["kept"]["mean"] == summary["chosen"]["mean"] == pytest.approx(mean)
    assert f"{mean:8.4f}" in said and "Each fold made its choices without its test images." in said
    assert json.loads((tmp_path / "folds.json").read_text()) == summary
    assert [row["fold"] for row in csv.DictReader((tmp_path / "folds.csv").read_text().splitlines())] == ["0", "1"]
    page = (tmp_path / "fold1" / "report.html").read_text()
    assert "images are the test split: fold 1 of the folds 0 to 1" in page
    whole = (tmp_path / "folds.html").read_text()
    links = re.findall('href="([^"]*)"', whole)
    assert links == ["fold0/report.html", "fold1/report.html"] and all((tmp_path / link).is_file() for link in links)
    assert f"has a test top-1 accuracy of {mean:.4f} ± " in whole and "Chosen heads: kept (2 of 2). " in whole
    # The study of one fold alone is the same.
    one = config()
    one.data.fold = 1
    assert study(one, tmp_path / "fold1").rows[-1]["test"]["top1"] == rows[1]["test"]["top1"]


def test_mean_and_spread_are_those_of_each_heads_own_choices():
    results = [pretended.study(seed=seed, seeds=2) for seed in range(3)]
    summary = folds.summary_of("x", results)
    assert set(summary["heads"]) == set(results[0].winners) and len(summary["rows"]) == 12
    kept = summary["heads"]["kept"]
    by_hand = []
    for result in results:
        depth = result.winners["kept"]["depth"]
        values = [
            row["test"]["mean_per_class"]
            for row in result.rows
            if row["stage"] == "final" and row["head"] == "kept" and row["depth"] == depth
        ]
        by_hand.append(sum(values) / len(values))
    assert kept["mean"] == pytest.approx(sum(by_hand) / 3) and kept["min"] == pytest.approx(min(by_hand))
    assert kept["depths"] == [result.winners["kept"]["depth"] for result in results]
    assert summary["chosen"]["mean"] == summary["heads"][results[0].best]["mean"]
    text = folds.table(summary)
    assert "test per class, all folds" in text and "chosen by validation" in text
    page = folds_page.study_page(summary, {"name": "x"})
    assert page.count('<tr class="chosen">') == 4  # The line of the chosen heads, and one row for each fold.
    assert f"<th>kept</th><td>{kept['mean']:.4f}</td><td>{kept['sd']:.4f}</td>" in page
    # A head whose trainings failed in all folds but one.
    alone = folds.summary_of("x", [results[0], pretended.study(heads=("traditional",), seeds=2)])
    assert alone["heads"]["kept"]["sd"] is None and alone["heads"]["kept"]["folds"] == 1
    assert "–" in folds.table(alone)
    assert f"<th>kept</th><td>{alone['heads']['kept']['mean']:.4f}</td><td>–</td>" in folds_page.study_page(alone, {})


def test_names_are_escaped_and_a_lack_of_tested_heads_is_reported():
    summary = {"config_name": "<b>x", "folds": 2, "metric": "top1", "heads": {}, "chosen": None, "rows": []}
    page = folds_page.study_page(summary, {"name": "<b>x"})
    assert "<b>" not in page and "No fold has a tested head." in page


def test_main_studies_all_folds_if_none_is_given(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(folds, "study_folds", lambda config, workdir, **flags: called.append(flags))
    flags = type("Flags", (), {"workdir": str(tmp_path), "dry_run": True, "cells": "", "mode": "study"})()
    flags.config = config()
    modes._study(flags)
    assert called == [{"dry_run": True, "part": None}]
