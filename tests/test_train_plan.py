"""`--mode=train --dry_run`: the plan, its sums, and that nothing is written."""

import os
import re
import types

import pytest

import flax_augtl
from flax_augtl import modes, train_plan
from flax_augtl.errors import UserError
from flax_augtl.features.plan import FeaturePlan
from flax_augtl.training.experiment import prepare
from flax_augtl.training.memory import StepMemory
from tests import small

TIMING = train_plan.Timing(
    compilation=100, step=2.0, batch=1.0, evaluated=0.5, prepared=0.25, memory=StepMemory(1, 2, 3, 4)
)


def test_the_sums_are_those_of_the_parts():
    experiment = prepare(small.typed_config(steps=10, evaluate_every_steps=4))
    validation, test = len(experiment.dataset.val), len(experiment.dataset.test)
    text = "\n".join(train_plan.lines(experiment, TIMING))
    # Evaluations after steps 4, 8 and 10; a CPU prepares images on the cores that compute.
    seconds = 100 + 10 * 3 + 0.75 * (3 * validation + validation + test)
    assert f"In all about {train_plan.duration(seconds)}, without" in text
    assert "Plan: 10 steps of 8 images" in text and "frozen: none" in text
    assert re.search(
        rf"3 evaluations of {validation} validation images +{train_plan.duration(2.25 * validation)}\n", text
    )
    assert "A step: 3.00 s (2.00 s on the devices, 1.00 s to prepare its images), 3 images/s." in text
    assert "Memory on each device" in text
    kept = FeaturePlan(cache="memory", images=1100, rows=100)
    said = train_plan.lines(experiment, TIMING, features=kept)[-1]
    # A thousand images less go through the frozen layers, most of a forward pass.
    left = train_plan.duration(seconds - 750)
    assert said == f"  Kept features save about {train_plan.duration(750)} of it, which leaves {left}."
    resumed = "\n".join(train_plan.lines(experiment, TIMING, done=8))
    assert "of which 8 are done" in resumed and re.search(r"  2 steps +0:06\n  1 evaluation of", resumed)


def test_a_plan_is_printed_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = types.SimpleNamespace(
        config=small.digits_config(weights="embedded:glyphs", freeze="all"), workdir="runs/new", data_root=None,
        extend=False, profile=False, mode="train", dry_run=True,
    )  # fmt: skip
    modes._train(flags)
    said = capsys.readouterr().out
    assert "trainable: 650" in said and "Plan: 4 steps of 8 images" in said and "frozen: all" in said
    assert "are computed in every step, because config.data.views=0 draws fresh views" in said
    assert f"A dry run: {tmp_path}/runs/new was not changed." in said
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_of_a_run_that_has_begun_only_the_rest_is_planned(tmp_path):
    config = small.digits_config(weights="embedded:glyphs", freeze="all", steps=2)
    run = flax_augtl.train(config, tmp_path / "run", quiet=True)
    said: list[str] = []
    train_plan.plan(config, run.workdir, say=said.append)
    assert said == [f"{run.workdir} holds this run, and it is finished."]
    longer = small.digits_config(weights="embedded:glyphs", freeze="all", steps=6)
    with pytest.raises(UserError, match="another configuration"):
        train_plan.plan(longer, run.workdir)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    train_plan.plan(longer, run.workdir, extend=True, say=said.append)
    assert any("Plan: 6 steps" in line and "of which 2 are done" in line for line in said)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_of_variants_and_folds_the_first_is_planned(tmp_path, capsys, monkeypatch):
    planned = []
    monkeypatch.setattr(train_plan, "plan", lambda config, workdir, **given: planned.append((config, workdir)))
    config = small.digits_config()
    config.data.folds = 3
    flags = types.SimpleNamespace(
        config=config, workdir=str(tmp_path), data_root=None, extend=False, mode="train", dry_run=True
    )
    modes._train(flags)
    ((one, workdir),) = planned
    assert one.data.fold == 0 and str(workdir) == f"{tmp_path}/fold0"
    assert capsys.readouterr().out == "The first of 3 folds.\n"
