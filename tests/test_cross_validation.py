"""Cross-validation: files, output, resuming, and errors."""

import csv
import json
import re
import statistics

import numpy as np
import pytest
from ml_collections import ConfigDict

import flax_augtl
from flax_augtl import cross_validation, modes, variants
from flax_augtl.cross_validation import fold_configs, summary_of, train_folds
from tests import small

pytestmark = pytest.mark.slow


def config(**changes):
    made = small.digits_config(weights="embedded:glyphs", freeze="all", steps=2, evaluate_every_steps=1, **changes)
    made.data.folds = 3
    return made


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All folds of the digits, and their directory."""
    folder = tmp_path_factory.mktemp("folds")
    return folder, train_folds(config(), folder)


def test_each_fold_is_a_run_and_their_mean_and_spread_are_written(done):
    folder, found = done
    assert sorted(path.name for path in folder.iterdir()) == [
        "fold0",
        "fold1",
        "fold2",
        "folds.csv",
        "folds.html",
        "folds.json",
    ]
    results = [json.loads((folder / f"fold{k}" / "result.json").read_text()) for k in range(3)]
    summary = json.loads((folder / "folds.json").read_text())
    assert summary == found.summary
    top1 = [result["test"]["top1"] for result in results]
    assert summary["test"]["top1"] == {
        "mean": pytest.approx(np.mean(top1)),
        "sd": pytest.approx(np.std(top1, ddof=1)),
        "min": min(top1),
        "max": max(top1),
    }
    assert summary["val"]["loss"]["mean"] == pytest.approx(np.mean([result["val"]["loss"] for result in results]))
    right = sum(result["test"]["top1"] * result["test"]["n"] for result in results)
    assert summary["all"] == {"n": 1797, "top1": pytest.approx(right / 1797)}
    tested = [json.loads((folder / f"fold{k}" / "splits.json").read_text())["test"] for k in range(3)]
    assert len({name for ids in tested for name in ids}) == sum(map(len, tested)) == 1797
    rows = list(csv.DictReader((folder / "folds.csv").read_text().splitlines()))
    assert [row["fold"] for row in rows] == ["0", "1", "2", "mean", "sd"]
    assert float(rows[3]["test_top1"]) == pytest.approx(np.mean(top1)) and rows[1]["test_n"] == str(len(tested[1]))


def test_one_page_has_every_fold_its_files_and_the_spread(done):
    folder, found = done
    page = (folder / "folds.html").read_text()
    assert "<h1>Cross-validation: test, 3 folds</h1>" in page
    for split, metric in (("test", "top1"), ("test", "loss"), ("val", "top1")):
        values = found.summary[split][metric]
        cells = "".join(f"<td>{values[name]:.4f}</td>" for name in ("mean", "sd", "min", "max"))
        assert f"<th>{split} {metric}</th>{cells}" in page
    for fold, run in enumerate(found.runs):
        assert f"<th>fold {fold}</th><td>{run.result['test']['top1']:.4f}</td>" in page
    links = re.findall('href="([^"]*)"', page)
    assert len(links) == 9 and all((folder / link).is_file() for link in links)
    assert "Test top-1 accuracy over 3 folds: " in page and "&quot;folds&quot;: 3" in page


def test_the_same_command_goes_on_and_prints_the_table(done, monkeypatch, capsys):
    folder, found = done
    calls = []
    monkeypatch.setattr(
        cross_validation, "train", lambda *arguments, **flags: calls.append(arguments) or found.runs[len(calls) - 1]
    )
    train_folds(config(), folder)
    assert [path.name for _, path in calls] == ["fold0", "fold1", "fold2"]
    assert [one.data.fold for one, _ in calls] == [0, 1, 2] and {one.name for one, _ in calls} == {"test"}
    said = capsys.readouterr().out
    spread = found.summary["test"]["top1"]
    assert f"\nmean   {spread['mean']:10.4f} " in said and f"\nsd     {spread['sd']:10.4f} " in said
    assert (
        f"Test top-1 accuracy over 3 folds: {spread['mean']:.4f} ± {spread['sd']:.4f} (mean and standard deviation; "
        f"{spread['min']:.4f} to {spread['max']:.4f}).\nEach of the 1797 images was tested once, by a network that was "
        "not trained on it: "
    ) in said


def test_one_fold_alone_is_the_same_run(done, capsys):
    folder, found = done
    one = config()
    one.data.fold = 1
    run = flax_augtl.train(one, folder / "fold1")
    assert "holds this run, and it is finished" in capsys.readouterr().out
    assert run.result == found.runs[1].result
    assert flax_augtl.load_run(folder / "fold1").evaluate("test")["top1"] == pytest.approx(run.result["test"]["top1"])


def test_variants_stand_beside_each_other_with_their_means(done, tmp_path, monkeypatch, capsys):
    _, found = done
    monkeypatch.setattr(variants, "train_folds", lambda config, folder, **flags: found)
    asked = config()
    with asked.unlocked():
        asked.variants = ConfigDict({"slow": {"learning_rate": 0.001}, "fast": {"learning_rate": 0.1}}, sort_keys=False)
    assert set(variants.train_variants(asked, tmp_path)) == {"slow", "fast"}
    assert f"\nslow         {found.summary['test']['top1']['mean']:7.4f} " in capsys.readouterr().out


def test_main_trains_all_folds_where_none_is_named(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(cross_validation, "train_folds", lambda config, workdir, **flags: called.append("folds"))
    monkeypatch.setattr(modes, "train", lambda config, workdir, **flags: called.append("one"))
    flags = type(
        "Flags",
        (),
        {
            "workdir": str(tmp_path),
            "extend": False,
            "profile": False,
            "mode": "train",
            "data_root": None,
            "dry_run": False,
        },
    )()
    for fold in (None, 0):
        flags.config = config()
        flags.config.data.fold = fold
        modes._train(flags)
    assert called == ["folds", "one"]


def test_mistakes_are_told_before_anything_is_written(done, tmp_path):
    folder, _ = done
    with pytest.raises(ValueError, match="config.data.folds=3 needs config.data.fold, from 0 to 2"):
        flax_augtl.train(config(), tmp_path / "run")
    with pytest.raises(
        ValueError, match="holds a run or a study, and config.data.folds without config.data.fold makes one"
    ):
        train_folds(config(), folder / "fold0")
    other = config()
    other.data.folds = 1
    with pytest.raises(ValueError, match="config.data.folds=1 must be a whole number of at least 2"):
        fold_configs(other)
    other.data.folds = 4
    with pytest.raises(ValueError, match="fold0 holds a run with another configuration:\n.*folds: 3 there, 4 here"):
        train_folds(other, folder)
    assert not (tmp_path / "run").exists()


def test_without_validation_and_with_figures_of_another_kind():
    tests = [
        {"top1": value, "mean_per_class": value, "loss": 1.0, "n": n, "of_class": {"a": 1}}
        for value, n in ((0.5, 10), (0.8, 20))
    ]
    found = summary_of("x", [{"test": test, "val": None, "metric": "top1", "seconds": 1.0} for test in tests])
    assert found["val"] is None and set(found["test"]) == {"top1", "mean_per_class", "loss"}
    assert found["test"]["top1"] == {
        "mean": 0.65,
        "sd": pytest.approx(statistics.stdev((0.5, 0.8))),
        "min": 0.5,
        "max": 0.8,
    }
    assert found["all"] == {"n": 30, "top1": pytest.approx(0.7)}
    assert cross_validation.table(found).splitlines()[-2] == "mean       0.6500     0.6500   1.0000"
