"""Training on kept features equals training on images, is resumed with the same bits, and the log says what is kept."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import flax_augtl
from flax_augtl.config.convert import typed
from flax_augtl.data import dataset_from_arrays
from flax_augtl.errors import UserError
from flax_augtl.features import plan as feature_plan
from flax_augtl.features.activations import Activations
from flax_augtl.training import experiment as experiments
from flax_augtl.training.kept_features import make_features
from flax_augtl.training.log import RunLog
from flax_augtl.training.loop import fit
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.progress import Progress
from flax_augtl.training.state import create_state
from tests import conftest, small

CLASSES = 3


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)

    def split(count):
        labels = np.arange(count) % CLASSES
        images = rng.integers(0, 256, (count, 8, 8, 3)) // 2 + 40 * labels[:, None, None, None]
        return images.astype(np.uint8), labels

    return dataset_from_arrays(*split(44), val=split(12), test=split(18))


def config(cache="memory", **changes):
    found = small.digits_config(
        **{
            "weights": "embedded:glyphs",
            "freeze": "layer3",
            "steps": 20,
            "evaluate_every_steps": 10,
            "head": {"preset": "kept_deeper", "new_layers": (16,)},
            **changes,
        }
    )
    found.data.views = 2
    found.features.cache = cache
    return found


def fitted(config, dataset, tmp_path):
    """The state after a run without a run directory."""
    values = typed(config)
    experiment = experiments.prepare(values, dataset, keep_features=True)
    state = create_state(
        experiment.variables, create_optimizer(experiment.optimizer, experiment.plan), experiment.plan, values.seed
    )
    if experiment.features.keeps:
        kept = make_features(
            experiment.features,
            values,
            experiment.network,
            experiment.preprocessing,
            experiment.dataset,
            experiment.variables,
            folder=tmp_path,
            say=lambda text: None,
        )
        experiment = dataclasses.replace(experiment, kept=kept)
    return fit(experiment, state, Progress())


def largest_difference(one, other):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), one, other)))


def assert_same_bits(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"freeze": "all", "head": {"preset": "wider", "widen": 8}},
        {"freeze": "layer2", "accumulate": 2, "class_weights": (1.0, 2.0, 0.0), "learning_rate": 0.003},
    ],
    ids=["layer3", "all, wider", "layer2, accumulated"],
)
def test_kept_and_recomputed_features_give_the_same_parameters(changes, dataset, tmp_path):
    (images, before), (kept, after) = (
        fitted(config(cache, **changes), dataset, tmp_path) for cache in ("none", "memory")
    )
    assert before.step == after.step == 20 and before.best_step == after.best_step
    assert after.best_loss == pytest.approx(before.best_loss, rel=1e-3)
    assert largest_difference(kept.params, images.params) < 1e-4
    for one, other in zip(*map(jax.tree.leaves, (kept.batch_stats, images.batch_stats)), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * max(1.0, float(np.abs(other).max())))


@pytest.mark.slow
def test_wherever_features_are_kept_the_bits_are_the_same(dataset, tmp_path):
    memory, *others = (fitted(config(cache), dataset, tmp_path)[0].params for cache in ("memory", "file", "device"))
    for params in others:
        assert_same_bits(params, memory)


@pytest.mark.slow
def test_the_bits_are_those_of_images_where_pass_and_step_use_the_same_convolutions(dataset, tmp_path):
    """Both then compute 32 images on a device."""
    if conftest.COMPILES_FASTER in os.environ["XLA_FLAGS"]:
        # With this flag the compiler fuses, and so rounds, differently in different programs.
        flags = os.environ["XLA_FLAGS"].replace(conftest.COMPILES_FASTER, "")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "0",
            "-m",
            "slow",
            f"{__file__}",
            "-k",
            "the_bits_are_those",
        ]
        environment = {**os.environ, "FLAX_AUGTL_TESTS_XLA_FLAGS": flags}
        child = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=conftest.ROOT)
        assert child.returncode == 0 and "1 passed" in child.stdout, child.stdout[-3000:]
        return
    changes = {"batch_size": 32 * jax.device_count(), "steps": 3, "evaluate_every_steps": 3}
    images, kept = (fitted(config(cache, **changes), dataset, tmp_path)[0] for cache in ("none", "memory"))
    assert_same_bits(kept.params, images.params)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["memory", "file"])
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_bits(cache, dataset, tmp_path, monkeypatch, capsys):
    settings = config(cache, steps=6, evaluate_every_steps=3, checkpoint_every_steps=1)
    whole = flax_augtl.train(settings, tmp_path / "whole", dataset=dataset, quiet=True)

    def kill():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        small.at_step(4, kill, patch)
        with pytest.raises(KeyboardInterrupt):
            flax_augtl.train(settings, tmp_path / "run", dataset=dataset, quiet=True)
    assert (tmp_path / "run" / "features").exists() == (cache == "file")
    capsys.readouterr()
    run = flax_augtl.train(settings, tmp_path / "run", dataset=dataset)
    again = "The features are there from an earlier start." in capsys.readouterr().err
    assert again == (cache == "file")
    assert_same_bits(run.variables, whole.variables)
    assert {**run.result, "seconds": 0} == {**whole.result, "seconds": 0}
    # The files are gone with the end of the run, and nothing but the trained layers computed its figures.
    assert not (tmp_path / "run" / "features").exists()
    assert run.evaluate(dataset=dataset)["loss"] == pytest.approx(run.result["test"]["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_feature_that_is_not_finite_is_skipped_like_an_image(dataset, tmp_path, monkeypatch):
    fill = Activations.fill

    def spoiled(self, say=None):
        fill(self, say)
        if len(self.rows) == 88:  # Both views of training example 7.
            self.store.arrays["layer3"][[7, 7 + 44]] = np.nan

    monkeypatch.setattr(Activations, "fill", spoiled)
    state, progress = fitted(config(steps=11, evaluate_every_steps=11, on_nan="skip"), dataset, tmp_path)
    # The example is in two of the 88 places of two epochs.
    assert progress.not_finite == 2 and progress.step == 11
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def said(config, dataset, tmp_path, monkeypatch):
    """What the log of a run says."""
    lines = []
    monkeypatch.setattr(RunLog, "say", lambda self, text: lines.append(text))
    flax_augtl.train(config, tmp_path / "run", dataset=dataset, quiet=True)
    return lines


@pytest.mark.slow
def test_the_log_says_what_is_kept_and_what_auto_decided_is_followed(dataset, tmp_path, monkeypatch):
    settings = config("auto", early_stopping=1, learning_rate=0.0, evaluate_every_steps=4)
    settings.data.cache = "memory"

    def kill():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        small.at_step(5, kill, patch)
        with pytest.raises(KeyboardInterrupt):
            flax_augtl.train(settings, tmp_path / "run", dataset=dataset, quiet=True)
    decision = json.loads((tmp_path / "run" / "features.json").read_text())
    assert decision["cache"] == "memory"
    # Where it has less memory when it is resumed, the run still does what it did.
    monkeypatch.setattr(feature_plan, "free_memory", lambda: 0.0)
    lines = said(settings, dataset, tmp_path, monkeypatch)
    assert (
        "Kept features: the frozen layers, up to layer3, compute 2 views of 44 training, 12 validation and 18 test images "
        "once, 118 instead of 250 over the whole run. They take 0.0 MB in memory."
    ) in lines
    assert any(line.startswith("The features were made in ") for line in lines)
    assert "config.data.cache=memory has no use: no image is decoded twice." in lines
    # With a rate of 0 the second evaluation equals the first.
    assert "Stopped early: 1 evaluation without an improvement." in lines


@pytest.mark.slow
def test_a_longer_run_follows_the_decision_and_equals_one_on_images(dataset, tmp_path, capsys):
    shorter, longer = (config("auto", steps=steps, evaluate_every_steps=4) for steps in (16, 20))
    flax_augtl.train(shorter, tmp_path / "run", dataset=dataset, quiet=True)
    run = flax_augtl.train(longer, tmp_path / "run", dataset=dataset, extend=True)
    assert "Kept features: " in capsys.readouterr().err
    flax_augtl.train(config("none", steps=16, evaluate_every_steps=4), tmp_path / "images", dataset=dataset, quiet=True)
    images = flax_augtl.train(
        config("none", steps=20, evaluate_every_steps=4), tmp_path / "images", dataset=dataset, extend=True, quiet=True
    )
    assert run.step == images.step and largest_difference(run.variables, images.variables) < 1e-4
    assert not (tmp_path / "images" / "features.json").exists()


def planned(dataset, **changes):
    data = changes.pop("data", {})
    settings = config(**changes)
    settings.data.update(data)
    return experiments.prepare(typed(settings), dataset, keep_features=True).features


def test_fresh_views_and_mixed_images_are_computed_and_the_log_says_what_finite_views_would_save(dataset):
    fresh = planned(dataset, cache="auto", steps=200, data={"views": 0})
    assert not fresh.keeps and fresh.note == (
        "The frozen layers, up to layer3, are computed in every step, because config.data.views=0 draws fresh views of "
        "each image. With config.data.views=4, they would compute 206 images once instead of 1870 over the whole run, "
        "which trains on what was kept."
    )
    mixed = planned(dataset, cache="memory", steps=200, data={"mixup": 0.2})
    assert not mixed.keeps and mixed.note == (
        "The frozen layers, up to layer3, are computed in every step, because config.data.mixup=0.2 mixes images anew in "
        "each. With config.data.views=4 and without it, they would compute 206 images once instead of 1870 over the whole "
        "run, which trains on what was kept."
    )
    # Without random changes every view is the evaluation view.
    assert planned(dataset, cache="auto", data={"views": 0, "shift": 0}).keeps


def test_auto_keeps_features_where_it_pays_and_where_they_fit(dataset, monkeypatch):
    assert planned(dataset, cache="auto", freeze="none") == feature_plan.FeaturePlan()
    assert planned(dataset, cache="none") == feature_plan.FeaturePlan()
    assert planned(dataset, cache="auto", steps=14).cache == "memory"
    short = planned(dataset, cache="auto", steps=8)
    assert short.note.endswith("in every step: the run is short: 106 images in all, and 118 views to keep.")
    few = config("auto")
    few.features.cache_gb = 1e-6
    full = experiments.prepare(typed(few), dataset, keep_features=True).features
    assert full.note.endswith("their outputs would take 0.0 MB, more than config.features.cache_gb=1e-06.")
    few.features.cache = "file"
    with pytest.raises(UserError, match="The features that config.features.cache=file asks for take 0.0 MB, more than"):
        experiments.prepare(typed(few), dataset, keep_features=True)
    monkeypatch.setattr(feature_plan, "free_memory", lambda: 0.0)
    assert planned(dataset, cache="auto").note.endswith("more than half of the free memory and of the free disk.")
    experiment = experiments.prepare(typed(config("auto")), dataset, keep_features=True, folder="/")
    assert experiment.features.cache == "file"


def test_frozen_layers_compute_each_view_once(dataset, tmp_path, monkeypatch):
    computed = []
    fill = Activations.fill

    def counted(self, say=None):
        compute = self.compute
        self.compute = lambda images, names: (computed.append(len(images)), compute(images, names))[1]
        fill(self, say)

    monkeypatch.setattr(Activations, "fill", counted)
    monkeypatch.setattr("flax_augtl.training.loop.train_batches", None)
    monkeypatch.setattr("flax_augtl.training.evaluation_loop.eval_batches", None)
    fitted(config(steps=200, evaluate_every_steps=20), dataset, tmp_path)
    # Blocks of 32: three of 88 training views, one of 12 validation images, one of 18 test images.
    assert sum(computed) == 5 * 32
