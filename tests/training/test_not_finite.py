"""A loss or gradient that is not finite: config.on_nan = stop, skip, restore."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_augtl
from flax_augtl.config.convert import typed
from flax_augtl.data import dataset_from_arrays
from flax_augtl.data.loading.sampler import stream
from flax_augtl.pretrained import Preprocessing
from flax_augtl.training import compiled_steps, loop, pmapped
from flax_augtl.training.experiment import prepare
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.progress import Progress
from flax_augtl.training.state import create_state
from flax_augtl.workdir import files
from tests import small

COUNT, BATCH, STEPS = 24, 4, 10
BAD = 7  # The example whose image becomes infinite.


@pytest.fixture(autouse=True)
def infinite_white(monkeypatch):
    """Make an infinite input of an image that is all white; a step compiled with this serves no other test."""
    normalise = Preprocessing.normalise

    def injected(self, images):
        white = jnp.all(images == 255, axis=(1, 2, 3), keepdims=True)
        return jnp.where(white, jnp.inf, normalise(self, images))

    compiled_steps.pmapped_train_step.cache_clear()
    compiled_steps.pmapped_eval_step.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(Preprocessing, "normalise", injected)
        yield
    compiled_steps.pmapped_train_step.cache_clear()
    compiled_steps.pmapped_eval_step.cache_clear()


def dataset(bad=True):
    images = np.random.default_rng(0).integers(0, 255, (COUNT, 8, 8, 3), np.uint8)
    test = images[:4].copy()
    if bad:
        images[BAD] = 255
    labels = [str(index % 2) for index in range(COUNT)]
    return dataset_from_arrays(images, labels, test=(test, labels[:4]), data={"validation": 0})


def config(on_nan, **changes):
    return small.digits_config(
        **{
            "weights": "embedded:glyphs",
            "freeze": "all",
            "batch_size": BATCH,
            "steps": STEPS,
            "evaluate_every_steps": 2,
            "on_nan": on_nan,
            "data": {"shift": 0},
            # Compiled in another way, the frozen layers may turn an infinite image into zeros on a CPU.
            "features": {"cache": "none"},
            **changes,
        }
    )


@pytest.fixture(scope="module")
def bad_positions():
    """The batches that hold the bad example."""
    return [p for p in range(40) if BAD in stream(p * BATCH, (p + 1) * BATCH, COUNT, 0)[0]]


def test_stop_names_step_examples_and_norms(tmp_path, bad_positions):
    first = bad_positions[0]
    with pytest.raises(loop.NotFinite) as error:
        flax_augtl.train(config("stop"), tmp_path, dataset=dataset(), quiet=True)
    said = str(error.value)
    assert said.startswith(f"Step {first + 1} of {STEPS}: the loss is nan") and error.value.position == first
    names = re.search(rf"Batch {first} holds (.*)\.", said)[1].split(", ")
    data = dataset().train
    assert names == [data.ids[i] for i in stream(first * BATCH, (first + 1) * BATCH, COUNT, 0)[0]]
    assert data.ids[BAD] in names
    assert re.search(r"\n  head +nan +\d", said) and "layer1" not in said  # Frozen groups have no gradient.
    assert not (tmp_path / "result.json").exists()


def test_skip_leaves_the_update_out_and_counts_it(tmp_path, bad_positions):
    expected = [p + 1 for p in bad_positions if p < STEPS]
    run = flax_augtl.train(config("skip"), tmp_path, dataset=dataset(), quiet=True)
    rows = [row for row in files.read_metrics(tmp_path) if row["split"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if row.get("skipped")] == expected
    assert all(np.isfinite(value) for row in rows for name, value in row.items() if name != "split")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.variables))


def test_a_skipped_update_leaves_every_bit_of_the_state():
    experiment = prepare(typed(config("skip", freeze="none")), dataset())
    start = create_state(
        experiment.variables, create_optimizer(experiment.optimizer, experiment.plan), experiment.plan, 0
    )
    step_fn = compiled_steps.pmapped_train_step(
        experiment.network, experiment.plan, experiment.optimizer, experiment.preprocessing, experiment.step
    )
    batch = {
        "image": np.full((4, 8, 8, 3), 255, np.uint8),
        "label": np.zeros(4, np.int32),
        "id": np.zeros(4, np.uint32),
        "view": np.zeros(4, np.int32),
    }
    state, scalars = step_fn(jax.tree.map(np.copy, start), pmapped.split_over_devices(batch, 4), np.float32(0.1), None)
    assert not np.isfinite(scalars["loss"]) and int(state.step) == 1
    jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(state, step=start.step), start)


@pytest.mark.parametrize("on_nan", ["skip", "restore"])
def test_the_limit_stops_the_run(on_nan, tmp_path, bad_positions):
    with pytest.raises(loop.NotFinite) as error:
        flax_augtl.train(config(on_nan, steps=30, on_nan_limit=1), tmp_path, dataset=dataset(), quiet=True)
    assert error.value.position == bad_positions[1]


def test_restore_goes_back_to_the_checkpoint_and_on_behind_the_batch(tmp_path, capfd, bad_positions):
    first = bad_positions[0]
    run = flax_augtl.train(config("restore", on_nan_limit=20), tmp_path, dataset=dataset())
    said = capfd.readouterr().err
    back = first // 2 * 2
    assert f"Going back to step {back} and continuing with the next batch. This is restore 1 of at most" in said
    rows = [row for row in files.read_metrics(tmp_path) if row["split"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)) and not any("skipped" in row for row in rows)
    # The same as a run on sound data that passes over the same batches.
    position, visited, steps = 0, [], 0
    while steps < STEPS:
        if position in bad_positions:
            del visited[steps // 2 * 2 :]
            steps = steps // 2 * 2
        else:
            visited.append(position)
            steps += 1
        position += 1
    experiment = prepare(typed(config("stop", data={"shift": 0})), dataset(bad=False))
    state = create_state(
        experiment.variables, create_optimizer(experiment.optimizer, experiment.plan), experiment.plan, 0
    )
    progress = Progress()
    for at in visited:
        cut = dataclasses.replace(experiment, rates=experiment.rates[: progress.step + 1])
        state, progress = loop.fit(cut, state, dataclasses.replace(progress, position=at))
    jax.tree.map(
        np.testing.assert_array_equal, flax_augtl.load_run(tmp_path, step="last").variables["params"], state.params
    )
    assert run.result["best_step"] == STEPS


def test_a_rate_that_diverges_stops_in_every_mode(tmp_path):
    for on_nan in ("stop", "skip", "restore"):
        with pytest.raises(loop.NotFinite, match="Lower config.learning_rate"):
            flax_augtl.train(
                config(on_nan, learning_rate=1e30, on_nan_limit=3, steps=40),
                tmp_path / on_nan,
                dataset=dataset(bad=False),
                quiet=True,
            )
        assert not (tmp_path / on_nan / "result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("on_nan", ["stop", "skip", "restore"])
def test_what_the_last_update_spoils_is_not_kept(on_nan, tmp_path):
    with pytest.raises(loop.NotFinite, match="Step 1 of 1: parameters of head are no longer finite after its"):
        flax_augtl.train(
            config(
                on_nan,
                learning_rate=1e38,
                optimizer="sgd",
                freeze="stem",
                on_nan_limit=2,
                steps=1,
                new_layer_multiplier=1e3,
            ),
            tmp_path,
            dataset=dataset(bad=False),
            quiet=True,
        )
    assert not (tmp_path / "result.json").exists() and not list((tmp_path / "checkpoints").glob("[0-9]*"))


def test_an_unknown_mode_is_named(tmp_path):
    with pytest.raises(ValueError, match="config.on_nan='ignore' is not one of stop, skip, restore"):
        flax_augtl.train(config("ignore"), tmp_path / "run", dataset=dataset(), quiet=True)
