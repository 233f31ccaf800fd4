"""Runs whose head is fitted in closed form: trained, resumed, loaded and refused like any other."""

import shutil

import jax
import numpy as np
import pytest

import flax_augtl
from flax_augtl.config.convert import typed
from flax_augtl.errors import UserError
from flax_augtl.models.closed_form import fit_classifier
from flax_augtl.training.closed_form import fit_head, penultimate
from flax_augtl.training.experiment import prepare
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.progress import Progress
from flax_augtl.training.state import create_state
from flax_augtl.workdir import files
from tests import small


def config(preset="lda", **changes):
    made = small.digits_config(weights="embedded:glyphs", freeze="all")
    made.head.preset = preset
    # What a closed form does not read has its default.
    made.update({"steps": None, "evaluate_every_steps": None, "learning_rate": 0.003, **changes})
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return flax_augtl.train(config(), tmp_path_factory.mktemp("lda"), quiet=True)


@pytest.fixture(scope="module")
def start():
    return prepare(typed(config()))


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_classifier_is_that_of_the_training_features_and_nothing_else_changes(run, start):
    assert_same(run.variables["params"]["source"], start.variables["params"]["source"])
    assert_same(run.variables["batch_stats"], start.variables["batch_stats"])
    train, data = start.dataset.train, start.config.data
    features = penultimate(start.network, start.preprocessing, start.variables, train, data, batch_size=8)
    layer = fit_classifier(start.network.head.settings, features, train.labels, 10)
    for name, leaf in run.variables["params"]["head"]["classifier"].items():
        np.testing.assert_allclose(leaf, layer[name], rtol=1e-4, atol=1e-4 * np.abs(layer[name]).max())
    assert run.result["best_step"] == run.step == 1
    assert run.result["val"]["n"] == len(start.dataset.val)
    assert [row["split"] for row in files.read_metrics(run.workdir)] == ["train", "val", "test"]


def test_a_loaded_run_is_the_fitted_one_and_the_same_command_finds_it_finished(run, capsys):
    loaded = flax_augtl.load_run(run.workdir)
    assert_same(loaded.variables, run.variables)
    flax_augtl.train(config(), run.workdir)
    assert "it is finished" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_result_resumes_to_the_same_bits(run, tmp_path):
    shutil.copytree(run.workdir, tmp_path / "copy")
    (tmp_path / "copy" / files.RESULT).unlink()
    resumed = flax_augtl.train(config(), tmp_path / "copy", quiet=True)
    assert_same(resumed.variables, run.variables)
    assert {**resumed.result, "seconds": 0} == {**run.result, "seconds": 0}


@pytest.mark.slow
def test_the_probabilities_of_lda_are_its_own_and_those_of_ridge_get_a_temperature(run, tmp_path):
    assert run.temperature is None and run.result["calibration"] is None
    assert flax_augtl.train(config("ridge"), tmp_path, quiet=True).result["calibration"]["temperature"] > 0


def test_a_fit_does_not_depend_on_the_batch(start):
    optimizer = create_optimizer(start.optimizer, start.plan)
    state = create_state(start.variables, optimizer, start.plan, 0)
    fitted, progress = fit_head(start, state, Progress())
    other = prepare(typed(config(batch_size=16)))
    again, _ = fit_head(other, state, Progress())
    assert progress.step == progress.best_step == 1
    for one, two in zip(*(jax.tree.leaves(each.params["head"]) for each in (fitted, again)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3 * np.abs(one).max())


def test_layers_that_train_are_refused(tmp_path):
    with pytest.raises(
        UserError, match="config.head.fit='lda' is computed from frozen features, but .*freeze='layer2'"
    ):
        flax_augtl.train(config(freeze="layer2"), tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="would freeze layers with random weights"):
        flax_augtl.train(config(weights=None), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_lengths_and_rates_beside_a_closed_form_are_refused(tmp_path):
    with pytest.raises(UserError) as error:
        flax_augtl.train(config(steps=3, learning_rate=0.1, schedule={"warmup_steps": 1}), tmp_path / "run", quiet=True)
    assert str(error.value).splitlines() == [
        f"config.{field} has no effect: config.head.fit='lda' is computed in closed form, without any step."
        for field in ("steps=3", "learning_rate=0.1", "schedule.warmup_steps=1")
    ] + ["Leave such fields out, or set those of a config file to their defaults; configs/common.py sets none."]
    assert not (tmp_path / "run").exists()
