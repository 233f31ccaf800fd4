"""Runs from Python: resuming, loading, predicting, and what is refused."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import flax_augtl
from flax_augtl.config.added_fields import ADDED
from flax_augtl.config.convert import typed
from flax_augtl.data import DataError
from flax_augtl.study import context
from flax_augtl.study.study import study
from flax_augtl.training import experiment, loop
from flax_augtl.training.checkpoints import CheckpointError, Checkpoints, open_checkpoints
from flax_augtl.training.experiment import prepare
from flax_augtl.training.progress import Progress
from flax_augtl.training.state import TrainState
from flax_augtl.workdir import files
from tests import small


def config(**changes):
    return small.digits_config(
        **{
            "weights": "embedded:glyphs",
            "freeze": "layer3",
            "steps": 6,
            "evaluate_every_steps": 3,
            "head": {"preset": "kept_deeper", "new_layers": (16,)},
            **changes,
        }
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    return flax_augtl.train(config(), workdir, quiet=True)


def rows(run):
    return [
        {name: value for name, value in row.items() if name != "seconds"} for row in files.read_metrics(run.workdir)
    ]


def contents(folder):
    return {path: path.read_bytes() for path in pathlib.Path(folder).rglob("*") if path.is_file()}


def assert_same_bits(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [1, 4, 5])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(whole, killed_at, tmp_path, monkeypatch):
    split, calls = loop.split_over_devices, []

    def killed(batch, devices):
        calls.append(1)
        if "id" in batch and sum(calls) > killed_at:
            raise KeyboardInterrupt
        return split(batch, devices)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "split_over_devices", killed)
        with pytest.raises(KeyboardInterrupt):
            flax_augtl.train(config(checkpoint_every_steps=1), tmp_path, quiet=True)
    assert not (tmp_path / "result.json").exists()
    resumed = flax_augtl.train(config(checkpoint_every_steps=1), tmp_path, quiet=True)
    assert_same_bits(
        flax_augtl.load_run(tmp_path, step="last").variables, flax_augtl.load_run(whole.workdir, step="last").variables
    )
    assert rows(resumed) == rows(whole)
    assert {**resumed.result, "seconds": 0} == {**whole.result, "seconds": 0}


def test_a_loaded_run_is_the_trained_one(whole):
    loaded = flax_augtl.load_run(whole.workdir)
    assert_same_bits(loaded.variables, whole.variables)
    assert loaded.class_names == whole.class_names == tuple("0123456789")
    assert loaded.preprocessing == whole.preprocessing and loaded.result == whole.result
    assert loaded.network == whole.network and loaded.step == whole.step
    assert loaded.config.head.new_layers in ((16,), [16])
    assert repr(loaded) == (
        f"<Run {whole.workdir}: resnet20, head kept_deeper, 10 classes, step {whole.step}, "
        f"test accuracy {whole.result['test']['top1']:.4f}>"
    )


def test_what_a_notebook_shows_of_data_and_sources_is_one_line():
    experiment = prepare(typed(config()))
    assert repr(experiment.dataset) == "<Dataset digits: 10 classes; 30 train, 10 val, 1000 test examples>"
    assert repr(experiment.dataset.val) == "<10 examples of 10 classes>"
    source = repr(flax_augtl.load_source("resnet20", "embedded:glyphs"))
    assert source.startswith("<Source resnet20: 215 classes, 16 pixels, ") and "\n" not in source


def test_paths_and_pillow_images_are_predicted_like_arrays(whole, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 9, 11, 3), np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "first.png")
    expected = whole.predict(list(pixels))
    np.testing.assert_array_equal(
        whole.predict([tmp_path / "first.png", Image.fromarray(pixels[1]), pixels[2]]), expected
    )
    np.testing.assert_array_equal(whole.predict(iter(pixels), batch_size=2), whole.predict(pixels, batch_size=2))


def test_loading_needs_the_directory_and_nothing_else(whole, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(whole.workdir, moved)
    source = json.loads((moved / "source.json").read_text())
    (moved / "source.json").write_text(json.dumps({**source, "weights": "/nowhere"}))
    assert_same_bits(flax_augtl.load_run(moved).variables, whole.variables)


def test_reading_a_run_warns_of_nothing(whole, caplog, capfd):
    flax_augtl.load_run(whole.workdir)
    flax_augtl.load_source(None, whole.workdir)
    assert not caplog.records and capfd.readouterr().err == ""


def test_predict_is_evaluate_for_images_of_any_size(whole):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (8, 8, 3), np.uint8) for _ in range(5)] + [np.zeros((9, 30, 3), np.uint8)]
    probabilities = whole.predict(images)
    assert probabilities.shape == (6, 10) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(whole.predict(images, batch_size=4), probabilities, rtol=1e-4, atol=1e-6)
    crops = np.stack([whole.preprocessing.resize_and_crop(Image.fromarray(image)) for image in images])
    logits = whole.network.apply(whole.variables, whole.preprocessing.normalise(crops))
    calibrated = jax.nn.softmax(logits / whole.temperature)
    np.testing.assert_allclose(calibrated, probabilities, rtol=1e-4, atol=1e-6)
    assert whole.predict([]).shape == (0, 10)
    with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\], not float32 \[8, 8, 3\]"):
        whole.predict([np.zeros((8, 8, 3), np.float32)])
    with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\], not uint8 \[0, 4, 3\]"):
        whole.predict([np.zeros((0, 4, 3), np.uint8)])
    with pytest.raises(ValueError, match="batch_size=-1 must be at least 1"):
        whole.predict(images, batch_size=-1)


def test_evaluate_gives_the_figures_of_the_result(whole):
    values = whole.evaluate("val")
    assert values.pop("confusion").sum() == values["n"]
    assert values == pytest.approx(whole.result["val"])
    with pytest.raises(ValueError, match="has no split 'vall'. Splits: train, val, test"):
        whole.evaluate("vall")


def test_evaluate_refuses_a_split_that_is_no_longer_the_runs(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(
                tmp_path / "photos" / name / f"{number}.png"
            )
    run = flax_augtl.train(
        config(
            steps=1,
            evaluate_every_steps=1,
            data={"name": "folder", "root": str(tmp_path / "photos"), "shots": None, "test": 4, "validation": 2},
        ),
        tmp_path / "run",
        quiet=True,
    )
    assert run.evaluate()["n"] == 4
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name / "0.png").unlink()
    with pytest.raises(
        ValueError,
        match="The data have changed since .*: its test split had 4 examples, and of the 4 that "
        r"it has now \d are others; the network was trained on \d of them",
    ):
        run.evaluate()


def as_earlier_version(workdir):
    """Make a run look as if a version without `config.data.split_seed` had begun it, and had not finished it."""
    written = json.loads((workdir / "config.json").read_text())
    for name in [name for name in ADDED if name.startswith("data.")]:
        del written["data"][name.removeprefix("data.")]
    (workdir / "config.json").write_text(json.dumps(written))
    (workdir / "result.json").unlink(missing_ok=True)
    return written


@pytest.mark.slow
def test_a_run_of_an_earlier_version_keeps_the_test_split_of_its_seed(tmp_path):
    old = config(seed=1, steps=2, evaluate_every_steps=1)
    with old.data.ignore_type():
        old.data.split_seed = None
    run = flax_augtl.train(old, tmp_path, quiet=True)
    assert run.result["test"]["n"] == 1797 - 40
    lacking, splits = as_earlier_version(tmp_path), (tmp_path / "splits.json").read_bytes()
    for _ in range(2):  # The same command, again and again.
        (tmp_path / "result.json").unlink(missing_ok=True)
        again = flax_augtl.train(config(seed=1, steps=2, evaluate_every_steps=1), tmp_path, quiet=True)
        assert again.result["test"] == run.result["test"] and (tmp_path / "splits.json").read_bytes() == splits
        assert json.loads((tmp_path / "config.json").read_text()) == lacking
    assert flax_augtl.load_run(tmp_path).evaluate("test")["n"] == 1797 - 40
    with pytest.raises(ValueError, match="config.data.split_seed: None there, 3 here"):
        other = config(seed=1, steps=2, evaluate_every_steps=1)
        other.data.split_seed = 3
        flax_augtl.train(other, tmp_path, quiet=True)


def test_a_dataset_made_in_python_for_a_run_of_an_earlier_version(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)

    def data(**fields):
        return flax_augtl.data.dataset_from_arrays(images, np.arange(60) % 10, data=fields, seed=1)

    flax_augtl.train(config(steps=1, evaluate_every_steps=1), tmp_path, dataset=data(split_seed=None), quiet=True)
    with pytest.raises(ValueError, match="Restore them, or choose another --workdir.$"):
        flax_augtl.train(config(steps=1, evaluate_every_steps=1), tmp_path, dataset=data(), quiet=True)
    as_earlier_version(tmp_path)
    with pytest.raises(ValueError, match="dataset_from_files, give these data={'split_seed': None}"):
        flax_augtl.train(config(steps=1, evaluate_every_steps=1), tmp_path, dataset=data(), quiet=True)
    run = flax_augtl.train(config(steps=1, evaluate_every_steps=1), tmp_path, dataset=data(split_seed=None), quiet=True)
    assert run.result["test"]["n"] == 12


def test_a_finished_run_is_not_that_of_another_dataset(whole, tmp_path):
    shutil.copytree(whole.workdir, tmp_path / "copy")
    images = np.zeros((40, 16, 16, 3), np.uint8)
    other = flax_augtl.data.dataset_from_arrays(images, np.arange(40) % 10)
    with pytest.raises(ValueError, match="The data have changed since the run"):
        flax_augtl.train(config(), tmp_path / "copy", dataset=other, quiet=True)


def test_home_is_understood(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(whole.workdir, tmp_path / "copy")
    assert flax_augtl.load_run("~/copy").workdir == tmp_path / "copy"


def test_frozen_groups_have_the_bits_of_the_source(whole):
    source = flax_augtl.load_source("resnet20", "embedded:glyphs")
    for group in ("stem", "layer1", "layer2", "layer3"):
        assert_same_bits(whole.variables["params"]["source"][group], source.variables["params"][group])
        assert_same_bits(whole.variables["batch_stats"]["source"][group], source.variables["batch_stats"][group])
    assert not np.array_equal(
        whole.variables["params"]["source"]["fc"]["kernel"], source.variables["params"]["fc"]["kernel"]
    )


def test_a_step_that_is_not_there_is_named(whole, tmp_path):
    with pytest.raises(ValueError, match=r"has no checkpoint of step 5. Steps: 3, 6"):
        flax_augtl.load_run(whole.workdir, step=5)
    with pytest.raises(ValueError, match=r"--step=newest is not best, last or the number of a step. Steps: 3, 6"):
        flax_augtl.load_run(whole.workdir, step="newest")
    with pytest.raises(ValueError, match="is not a run directory"):
        flax_augtl.load_run(tmp_path)


@pytest.mark.slow
def test_without_validation_the_last_step_is_the_best(tmp_path):
    run = flax_augtl.train(
        config(steps=2, data={"name": "digits", "shots": 2, "validation": 0, "crop": "none"}), tmp_path, quiet=True
    )
    assert run.result["val"] is None and run.result["best_step"] == run.step == 2


@pytest.mark.slow
def test_a_data_set_on_the_device_trains_the_same_network(whole, tmp_path):
    data = {**config().data.to_dict(), "cache": "device"}
    run = flax_augtl.train(config(data=data), tmp_path, quiet=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), run.variables, whole.variables)


def test_every_skipped_image_is_listed_in_the_run_directory(tmp_path):
    bad = [f"a/bad{i:02d}.png" for i in range(12)]
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng([i, ord(name)]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    for path in bad:
        (tmp_path / "images" / path).write_bytes(b"")
    data = {
        "name": "folder",
        "root": str(tmp_path / "images"),
        "on_bad_image": "skip",
        "scan_dir": "",
        "crop": "none",
    }
    flax_augtl.train(
        config(steps=1, data={**config().data.to_dict(), "shots": None, **data}), tmp_path / "run", quiet=True
    )
    found = files.read_json(tmp_path / "run" / files.SKIPPED)
    assert found == dict.fromkeys(bad, "it is empty (zero bytes)")


@pytest.mark.slow
def test_early_stopping(tmp_path):
    # At a learning rate of zero no evaluation is better than the first.
    run = flax_augtl.train(
        config(steps=30, evaluate_every_steps=1, learning_rate=0.0, early_stopping=3), tmp_path, quiet=True
    )
    assert [row["step"] for row in rows(run) if row["split"] == "val"] == [1, 2, 3, 4] and run.result["best_step"] == 1
    assert (
        flax_augtl.train(
            config(steps=30, evaluate_every_steps=1, learning_rate=0.0, early_stopping=3), tmp_path, quiet=True
        ).result
        == run.result
    )


def test_a_loss_that_is_not_finite_stops_the_run_with_the_numbers(tmp_path):
    with pytest.raises(
        loop.NotFinite, match=r"Step \d of 6: the loss is \w+, the norm of the gradient .* Lower config."
    ):
        flax_augtl.train(config(learning_rate=1e30), tmp_path, quiet=True)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 10},
            r"config.batch_size=10 does not divide by 4 devices × config.accumulate=1: 2 images .* multiple",
        ),
        ({"steps": 0}, "The run has no length: set one of config.steps, config.epochs, config.examples above 0"),
        ({"epochs": 2.0}, "Only one of config.steps=6, config.epochs=2.0 can be set"),
        ({"freeze": "layer9"}, "config.freeze='layer9' is not a layer group of this network. Did you mean 'layer3'"),
        (
            {"head": {"preset": "kept_depper"}},
            "config.head.preset='kept_depper' is unknown. Did you mean 'kept_deeper'",
        ),
        ({"network": "resnet21"}, "There is no network 'resnet21'"),
        ({"network": "resnet32"}, "resnet20"),
        ({"weights": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"weights": None}, "would freeze layers with random weights"),
        (
            {"compute_dtype": "float16"},
            r"config.compute_dtype='float16' is not supported: its numbers end at 65504 and lose "
            "small gradients, which calls for scaling the loss. Set bfloat16 instead",
        ),
        ({"compute_dtype": "float64"}, "config.compute_dtype='float64' is not one of float32, bfloat16"),
        ({"class_weights": (1.0, 2.0)}, "must be 10 numbers that are not negative"),
        ({"optimizer": "lamb"}, "config.optimizer='lamb' is not one of"),
        ({"data": {"name": "folder", "root": "nowhere"}}, "nowhere"),
        ({"data": {"name": "digits", "shots": 2, "validation": 0.01}}, "validation"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        flax_augtl.train(config(**changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "folder", "root": "gone"}, "The data root gone does not exist"),
        ({"name": "list", "root": ".", "train_list": "gone.txt"}, "The list file gone.txt does not exist"),
        ({"name": "oxford_flower102"}, "is not known. Did you mean oxford_flowers102"),
    ],
)
def test_data_that_are_not_there_are_named_before_weights_are_fetched(data, message, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "source_of", lambda config: 1 / 0)
    with pytest.raises(DataError, match=message):
        flax_augtl.train(small.digits_config(data=data), tmp_path / "run")
    monkeypatch.setattr(context, "source_of", lambda config: 1 / 0)
    with pytest.raises(DataError, match=message):
        study(small.digits_config(data=data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--workdir=.*file/run cannot be written: Not a directory"):
        flax_augtl.train(config(), tmp_path / "file" / "run", quiet=True)


def test_other_data_are_noticed(whole, tmp_path):
    shutil.copytree(whole.workdir, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    splits = json.loads((tmp_path / "run" / "splits.json").read_text())
    (tmp_path / "run" / "splits.json").write_text(json.dumps({**splits, "fingerprint": "another"}))
    with pytest.raises(ValueError, match="The data have changed since the run in .* was started"):
        flax_augtl.train(config(), tmp_path / "run", quiet=True)


def test_a_run_that_fails_at_start_leaves_another_run_alone(whole):
    before = contents(whole.workdir)
    with pytest.raises(
        ValueError, match="holds a run with another configuration:\n  config.batch_size: 8 there, 16 here"
    ):
        flax_augtl.train(config(batch_size=16), whole.workdir, quiet=True)
    assert contents(whole.workdir) == before


def test_balanced_class_weights_make_every_class_count_the_same():
    experiment = prepare(typed(config(balance_classes=True)))
    counts = np.bincount(experiment.dataset.train.labels)
    np.testing.assert_allclose(np.array(experiment.step.class_weights) * counts, len(experiment.dataset.train) / 10)


def small_state():
    return TrainState(
        step=np.array(0, np.int32),
        params={"source": {"a": np.ones(2, np.float32)}},
        batch_stats={},
        opt_state=(),
        rng=np.zeros(2, np.uint32),
    )


def test_the_best_of_the_checkpoint_before_the_newest_is_kept(tmp_path):
    with open_checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step, best in ((2, 2), (4, 2), (6, 2), (8, 8)):
            checkpoints.save(small_state(), Progress(step=step, position=step, best_step=best))
        checkpoints.wait()
        # Should 8 be damaged, the run goes on from 6, whose best is 2.
        assert checkpoints.steps() == [2, 6, 8]
        checkpoints.save(small_state(), Progress(step=10, position=10, best_step=8))
        checkpoints.wait()
        assert checkpoints.steps() == [8, 10]


def test_checkpoints_that_lack_their_manifests_are_not_removed_in_silence(tmp_path):
    with open_checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step in (2, 4):
            checkpoints.save(small_state(), Progress(step=step, position=step))
        checkpoints.wait()
        for step in (2, 4):
            (tmp_path / "checkpoints" / str(step) / "SHA256SUMS").unlink()
        with pytest.raises(CheckpointError, match="None of the checkpoints in .*, of steps 2, 4, has its SHA256SUMS"):
            checkpoints.newest_sound(print)
        assert checkpoints.steps() == [2, 4]


def test_the_best_and_the_newest_checkpoints_are_kept(tmp_path):
    state = small_state()
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in range(1, 7):
        # Written in the background, while the buffers are used again.
        state.params["source"]["a"][:] = step
        checkpoints.save(
            state, Progress(step=step, position=step, best_step=min(step, 3), best_value=0.5, best_loss=1.0)
        )
    checkpoints.wait()
    assert checkpoints.steps() == [3, 5, 6]
    checkpoints.close()
    again = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (3, 5, 6):
        restored, progress = again.restore(state, step)
        np.testing.assert_array_equal(restored.params["source"]["a"], [step, step])
        assert progress.step == step and progress.best_step == 3
    again.close()


@pytest.mark.slow
def test_the_result_has_intervals_and_the_scores_of_every_class(whole):
    result = json.loads((whole.workdir / "result.json").read_text())
    for split in ("test", "val"):
        for metric, (low, high) in result["intervals"][split].items():
            assert (
                metric in ("top1", "mean_per_class") and 0 <= low <= result[split][metric] <= high <= 1 and low < high
            )
    assert result["classes"] == json.loads((whole.workdir / "classes_test.json").read_text())
    found = whole.evaluation("test")
    assert found.intervals == result["intervals"]["test"] and found.class_table(whole.class_names) == result["classes"]
    assert found.probabilities.shape == (result["test"]["n"], 10)


def test_the_log_has_the_interval_and_a_warning_about_unequal_classes(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 4])
    images = rng.integers(0, 256, (len(labels), 8, 8, 3), np.uint8)
    dataset = flax_augtl.data.dataset_from_arrays(
        images, labels, test=(images[30:], labels[30:]), class_names=["a", "b"], data={"validation": 0}
    )
    run = flax_augtl.train(config(steps=1), tmp_path, dataset=dataset)
    said = capsys.readouterr().err
    assert "Warning: the classes are unequal. a has 40 training images, b has 4." in said
    low, high = run.result["intervals"]["test"]["top1"]
    assert f"test, step 1: top-1 {run.result['test']['top1']:.4f} [{low:.4f}, {high:.4f}], mean per class" in said
    assert "in brackets: 95 % bootstrap intervals over these images, for this trained network" in said
