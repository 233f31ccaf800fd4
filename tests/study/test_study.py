"""The whole study, small: what it writes, what it may read, and that it resumes."""

import csv
import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest

from flax_augtl import load_run
from flax_augtl.data import load_dataset
from flax_augtl.runtime import signals
from flax_augtl.study import results
from flax_augtl.study import study as module
from flax_augtl.study.study import study
from flax_augtl.study.trials import predictions, worker
from flax_augtl.study.trials.trial_batch import TrialBatch
from flax_augtl.workdir import files
from tests import small


def study_config(**changes):
    """Return a configuration of two heads with everything below frozen: dense layers, which compile in a second.

    The number of trials that are trained together is fixed, because the last bits depend on it.
    """
    config = small.digits_config(weights="embedded:glyphs")
    config.data.views = 2
    config.study.update(
        {
            "preset": "",
            "heads": ("traditional", "kept"),
            "depths": ("all",),
            "seeds": (0, 1),
            "learning_rates": (0.01, 0.05, 0.25),
            "together": 6,
            **changes,
        }
    )
    return config


def datasets(config):
    return {seed: load_dataset(config.data, seed=seed) for seed in config.study.seeds}


def lasting(rows):
    """Return rows without the fields that depend on the clock."""

    def row_of(row):
        history = [{name: value for name, value in point.items() if name != "seconds"} for point in row["history"]]
        return {
            **{name: value for name, value in row.items() if name not in ("seconds", "together")},
            "history": history,
        }

    return sorted((row_of(row) for row in rows), key=lambda row: row["cell"])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, study(study_config(), folder)


@pytest.mark.slow
def test_a_study_writes_a_report_rows_and_the_best_network(done):
    folder, result = done
    rows = list(csv.DictReader((folder / "study.csv").read_text().splitlines()))
    assert len(rows) == len(result.rows) >= 12 + 4 and {row["stage"] for row in rows} == {"select", "final"}
    assert "Layer-wise study: test" in (folder / "report.html").read_text()
    run = load_run(folder / "best")
    final = next(
        row for row in result.rows if row["stage"] == "final" and row["head"] == result.best and row["seed"] == 0
    )
    assert run.result["test"] == final["test"] and run.config.freeze == final["depth"]
    assert run.evaluate("test")["top1"] == pytest.approx(final["test"]["top1"], abs=1e-9)
    said = result.predictions
    assert np.mean(np.array(said["label"]) == said["prediction"]) == pytest.approx(final["test"]["top1"])
    assert result.image(0).shape == (8, 8, 3)
    assert result.one_test_split and "the test split is the same for all" in (folder / "report.html").read_text()
    assert not any("Each seed has a test split" in note for note in result.notes)
    assert result.leep["test"]["top1"] > 0.2 and len(result.leep["test_by_seed"]) == 2


@pytest.mark.slow
def test_rows_of_final_trials_have_the_prediction_for_every_test_image(done):
    folder, result = done
    finals = [row for row in result.rows if row["stage"] == "final"]
    assert len(finals) == 4
    for row in finals:
        right = predictions.read(row) == result.tests[row["seed"]]["label"]
        assert np.mean(right) == pytest.approx(row["test"]["top1"]) and len(right) == row["test"]["n"]
        assert row["test"]["roc_auc"] > 0.5 and row["test"]["kappa"] <= 1
    assert all(row["predicted"] is None for row in result.rows if row["stage"] == "select")
    best = load_run(folder / "best")
    found = best.evaluation("test")
    assert best.result["intervals"]["test"] == found.intervals == result.scores["intervals"]
    for values in (result.scores["metrics"], found.metrics):
        assert values["roc_auc"] == pytest.approx(best.result["test"]["roc_auc"], abs=1e-6)


def test_the_warning_about_few_validation_images_precedes_the_timing(tmp_path, capsys):
    study(study_config(), tmp_path, dry_run=True)
    said = capsys.readouterr().out
    assert said.index("validation images are too few to choose between 6 settings") < said.index("Timing")


@pytest.mark.slow
def test_a_study_of_an_earlier_version_has_no_interval_over_images_and_says_so(done, tmp_path):
    folder, result = done
    shutil.copytree(folder, tmp_path / "old")
    for path in (tmp_path / "old" / "cells").glob("final-*.json"):
        row = json.loads(path.read_text())
        del row["predicted"]
        path.write_text(json.dumps(row))
    old = study(study_config(), tmp_path / "old")
    assert [row["test"] for row in old.rows] == [row["test"] for row in result.rows]
    assert (
        "no interval over test images, because an earlier version did not save the predictions"
        in (tmp_path / "old" / "report.html").read_text()
    )


@pytest.mark.slow
def test_a_finished_study_trains_nothing_again(done, monkeypatch):
    folder, result = done
    monkeypatch.setattr(TrialBatch, "advance", lambda self, pause: pytest.fail("a trial was trained again"))
    assert lasting(study(study_config(), folder).rows) == lasting(result.rows)


def test_a_study_may_grow_but_not_change(done):
    folder, _ = done
    config = study_config()
    config.momentum = 0.5
    with pytest.raises(ValueError, match="config.momentum: 0.9 there, 0.5 here"):
        study(config, folder)


@pytest.mark.slow
def test_a_study_of_an_earlier_version_keeps_a_test_split_for_each_seed_and_says_so(tmp_path, monkeypatch, capsys):
    def asked(**changes):
        return study_config(heads=("kept",), learning_rates=(0.05,), **changes)

    old = asked()
    with old.data.ignore_type():
        old.data.split_seed = None
    first = study(old, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    for name in ("split_seed", "group", "folds", "fold"):
        del written["data"][name]
    (tmp_path / "config.json").write_text(json.dumps(written))
    monkeypatch.setattr(TrialBatch, "advance", lambda self, pause: pytest.fail("a trial was trained again"))
    for _ in range(2):
        capsys.readouterr()
        again = study(asked(), tmp_path)
        assert lasting(again.rows) == lasting(first.rows)
        assert json.loads((tmp_path / "config.json").read_text()) == written
    sentence = next(note for note in again.notes if note.startswith("Each seed has a test split of its own: "))
    assert sentence in capsys.readouterr().out and not again.one_test_split
    assert "A seed determines the training, validation and test split" in (tmp_path / "report.html").read_text()
    assert load_run(tmp_path / "best").evaluate("test")["n"] == 1757


@pytest.mark.slow
def test_permuted_test_labels_give_the_same_choices(done, tmp_path):
    _, result = done
    permuted = {
        seed: dataclasses.replace(
            dataset, test=dataclasses.replace(dataset.test, labels=np.roll(dataset.test.labels, 1))
        )
        for seed, dataset in datasets(study_config()).items()
    }
    other = study(study_config(), tmp_path, datasets=permuted)
    assert other.winners == result.winners and other.best == result.best
    assert [row["val"] for row in other.rows] == [row["val"] for row in result.rows]
    assert [row["test"] for row in other.rows] != [row["test"] for row in result.rows]


class Absent:
    """A source whose images are missing until `present` is set."""

    def __init__(self, source):
        self.source, self.present = source, False

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        assert self.present, "a test image was read before the winners were fixed"
        return self.source[index]


@pytest.mark.slow
def test_test_images_are_not_read_before_the_winners_are_fixed(done, tmp_path, monkeypatch):
    found, absent = datasets(study_config()), []
    for seed, dataset in found.items():
        absent.append(Absent(dataset.test.source))
        found[seed] = dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, source=absent[-1]))
    finish = module._finish

    def arrive(*arguments, **more):
        for source in absent:
            source.present = True
        return finish(*arguments, **more)

    monkeypatch.setattr(module, "_finish", arrive)
    assert lasting(study(study_config(), tmp_path, datasets=found).rows) == lasting(done[1].rows)


def test_a_dry_run_prints_the_plan_and_trains_nothing(tmp_path, capsys):
    assert study(study_config(), tmp_path, dry_run=True) is None
    said = capsys.readouterr().out
    assert "16 trials" in said and "GB in files" in said and "kept" in said
    assert not list((tmp_path / "cells").iterdir()) and not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_parts_and_the_rest_are_the_whole(done, tmp_path, capsys):
    for part in ((1, 2), (2, 2)):
        assert study(study_config(), tmp_path, part=part) is None
    rows = len(list((tmp_path / "cells").iterdir()))
    assert rows == 12
    assert lasting(study(study_config(), tmp_path).rows) == lasting(done[1].rows)


@pytest.mark.slow
def test_a_failed_trial_is_reported_and_stops_nothing(tmp_path, monkeypatch, capsys):
    advance = TrialBatch.advance

    def fail(batch, pause):
        if batch.trials[0].head == "kept" and not batch.signature.final:
            raise RuntimeError("out of luck")
        advance(batch, pause)

    monkeypatch.setattr(TrialBatch, "advance", fail)
    result = study(study_config(), tmp_path)
    assert "failed: RuntimeError: out of luck" in capsys.readouterr().out
    assert list(result.winners) == ["traditional"] and sum(row["error"] is not None for row in result.rows) == 6
    monkeypatch.undo()
    # The next start tries the failed trials again.
    assert set(study(study_config(), tmp_path).winners) == {"traditional", "kept"}


@pytest.mark.slow
def test_a_study_whose_trials_all_fail_reports_it(tmp_path):
    with pytest.raises(ValueError, match="Every trial failed or diverged. Lower config.study.learning_rates"):
        study(study_config(learning_rates=(1e30,), heads=("kept",)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_within_a_trial_loses_no_step(number, done, tmp_path, monkeypatch, capsys):
    advance, steps = TrialBatch.advance, []

    def signalled(batch, pause):
        advance(batch, pause)
        steps.append((batch.trials[0].name, batch.step))
        if len(steps) == 1:
            signal.raise_signal(number)

    monkeypatch.setattr(TrialBatch, "advance", signalled)
    with signals.handled(), pytest.raises(signals.Interrupted):
        study(study_config(), tmp_path)
    assert steps[0][1] == 2 and len(list((tmp_path / "partial").iterdir())) == 1
    assert not list((tmp_path / "claims").iterdir())
    assert lasting(study(study_config(), tmp_path).rows) == lasting(done[1].rows)
    # Trials resume where they were: none takes the same step twice.
    assert len(steps) == len(set(steps))


@pytest.mark.slow
def test_a_full_disk_ends_a_study_without_failed_trials(small_disk, done):
    folder, remount = small_disk
    remount("size=40k")
    config = study_config(cache="memory")
    with pytest.raises(files.CannotWrite, match=r"study/cells/.*.json cannot be written: No space left on device"):
        study(config, folder / "study")
    assert not (folder / "study" / "study.csv").exists() and not list((folder / "study").glob("cells/*.error.txt"))
    assert not list((folder / "study" / "claims").iterdir())
    remount("size=64m")
    assert lasting(study(config, folder / "study").rows) == lasting(done[1].rows)


@pytest.mark.slow
def test_a_best_network_that_cannot_be_written_ends_a_study(done, tmp_path, monkeypatch):
    def full(*_):
        raise files.CannotWrite("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_run", full)
        with pytest.raises(files.CannotWrite, match="The disk is full."):
            study(study_config(), tmp_path)
    assert not list(tmp_path.glob("cells/*.error.txt"))
    assert lasting(study(study_config(), tmp_path).rows) == lasting(done[1].rows)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"checkpoint_seconds": 0}])
def test_a_folder_that_disappears_ends_a_study(changes, done, tmp_path, monkeypatch):
    advance, steps = TrialBatch.advance, []

    def moved(batch, pause):
        advance(batch, pause)
        steps.append(batch.step)
        if len(steps) == 3:
            (tmp_path / "study").rename(tmp_path / "moved")

    monkeypatch.setattr(TrialBatch, "advance", moved)
    with pytest.raises(files.CannotWrite, match=r"cannot be written: .*(?i:no such file)"):
        study(study_config(**changes), tmp_path / "study")
    monkeypatch.undo()
    shutil.rmtree(
        tmp_path / "moved" / "claims"
    )  # The leases are of this process, which still runs: the study would wait for them.
    assert lasting(study(study_config(), tmp_path / "moved").rows) == lasting(done[1].rows)


@pytest.mark.slow
def test_damaged_activations_are_computed_again(done, tmp_path):
    folder, result = done
    for path in (folder / "cache" / "train").glob("*.bin"):
        content = bytearray(path.read_bytes())
        content[100] ^= 16
        path.write_bytes(content)
    for path in (folder / "cells").iterdir():
        path.unlink()
    assert lasting(study(study_config(), folder).rows) == lasting(result.rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda row: "{",
        lambda row: "[]",
        lambda row: "{}",
        lambda row: json.dumps({**row, "seed": "0"}),
        lambda row: json.dumps({**row, "val": {"top1": "high"}}),
        lambda row: json.dumps({**row, "history": [1]}),
        lambda row: json.dumps({**row, "cell": "select-other"}),
        lambda row: json.dumps({**row, "classifier_rate": ""}),
        lambda row: json.dumps({**row, "history": [{**row["history"][0], "seconds": {"a": 1}}]}),
        lambda row: json.dumps({**row, "change": {"stem": "x"}}),
        lambda row: json.dumps({**row, "predicted": "1 a"}),
        lambda row: json.dumps({name: value for name, value in row.items() if name != "test"}),
    ],
)
def test_a_trial_with_a_damaged_row_is_trained_again(done, damage, capsys):
    folder, result = done
    path = next((folder / "cells").glob("select-kept-*"))
    path.write_text(damage(json.loads(path.read_text())))
    assert lasting(study(study_config(), folder).rows) == lasting(result.rows)
    assert json.loads(path.read_text())["cell"] == path.stem
    assert f"{path}" in (said := capsys.readouterr().out) and "It is trained again." in said


@pytest.mark.slow
@pytest.mark.parametrize("content", ["[]", "{}", '{"devices": 3}', "timed"])
def test_a_damaged_timing_is_measured_again(done, content):
    folder, result = done
    path = folder / "timing.json"
    before = json.loads(path.read_text())
    changed = {**before, "cell_seconds": "long"} if content == "timed" else json.loads(content)
    path.write_text(json.dumps(changed))
    assert lasting(study(study_config(), folder).rows) == lasting(result.rows)
    assert json.loads(path.read_text()).keys() == before.keys()


@pytest.mark.parametrize("content", ["[]", "{}", '{"study": 3}'])
def test_a_folder_with_another_config_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json is not the configuration of a study"):
        study(study_config(), tmp_path)


@pytest.mark.slow
def test_halving_ends_with_a_winner_and_fewer_steps(done, tmp_path):
    config = study_config(
        search="halving", learning_rates=(0.01, 0.05, 0.25), depths=("layer3", "all"), heads=("kept",)
    )
    result = study(config, tmp_path)
    assert set(result.winners) == {"kept"}
    assert {row["steps"] for row in result.rows if row["stage"] == "select"} == {1, 2, 4}
    with pytest.raises(ValueError, match="--cells divides the trials of a grid"):
        study(config, tmp_path, part=(1, 2))


def budget_config(**changes):
    return study_config(
        minutes=60.0,
        depths=("layer3", "all"),
        heads=("traditional", "kept"),
        seeds=(0,),
        learning_rates=(0.05,),
        **changes,
    )


@pytest.fixture(scope="module")
def in_time(tmp_path_factory):
    folder = tmp_path_factory.mktemp("budget")
    return folder, study(budget_config(), folder)


@pytest.mark.slow
def test_a_study_reports_what_its_time_budget_was_spent_on(in_time):
    folder, result = in_time
    assert set(result.winners) == {"traditional", "kept"} and result.account["trainings that choose"] > 0
    # For the traditional head, the topmost group, layer3 here, is `all`.
    assert result.depths == ("layer3", "all") and result.same_depths["traditional"] == {"layer3": "all"}
    assert {row["depth"] for row in result.rows if row["head"] == "traditional"} == {"all"}
    assert {row["frozen"] for row in result.rows if row["depth"] == "all"} == {"layer3", "fc"}
    lengths = {
        (row["head"], row["depth"]): max(
            other["steps"]
            for other in result.rows
            if other["stage"] == "select" and (other["head"], other["depth"]) == (row["head"], row["depth"])
        )
        for row in result.rows
    }
    assert len(set(lengths.values())) == 1
    budget = json.loads((folder / "budget.json").read_text())
    assert budget["minutes"] == 60.0 and budget["views"] == 2 and sum(budget["seconds"].values()) > 0
    assert "time budget: final trainings" in (folder / "report.html").read_text()
    best = load_run(folder / "best")
    assert best.config.freeze == result.winners[result.best]["depth"]
    assert json.loads((folder / "config.json").read_text())["study"]["minutes"] == 60.0


@pytest.mark.slow
def test_a_finished_study_with_a_budget_trains_nothing_again(in_time, monkeypatch):
    folder, result = in_time
    monkeypatch.setattr(TrialBatch, "advance", lambda self, pause: pytest.fail("a trial was trained again"))
    again = study(budget_config(), folder)
    assert lasting(again.rows) == lasting(result.rows) and again.winners == result.winners
    assert sum(again.account.values()) > sum(result.account.values())


@pytest.mark.slow
def test_an_interrupted_study_continues_with_what_is_left_of_its_budget(in_time, tmp_path, monkeypatch):
    advance, count = TrialBatch.advance, []

    def signalled(batch, pause):
        advance(batch, pause)
        count.append(1)
        if len(count) == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrialBatch, "advance", signalled)
    with signals.handled(), pytest.raises(signals.Interrupted):
        study(budget_config(), tmp_path)
    spent = sum(json.loads((tmp_path / "budget.json").read_text())["seconds"].values())
    result = study(budget_config(), tmp_path)
    # The trainings are the same; the last bits depend on the number of trials together, which is measured.
    assert {row["cell"] for row in result.rows} == {row["cell"] for row in in_time[1].rows}
    assert sum(result.account.values()) > spent > 0


@pytest.mark.slow
def test_a_training_that_would_exceed_the_remaining_time_is_stopped(tmp_path, monkeypatch, capsys):
    def room_of(search, trials):
        return -1.0 if trials[0].head == "kept" and (trials[0].steps or search.total) > 1 else 1e9

    monkeypatch.setattr(module.budget_study.Search, "_room_of", room_of)
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.0)
    config = budget_config()
    config.steps, config.evaluate_every_steps = 4, 1
    result = study(config, tmp_path)
    assert {row["steps"] for row in result.rows if row["head"] == "kept" and row["stage"] == "select"} == {1}
    assert {row["steps"] for row in result.rows if row["head"] == "traditional"} >= {1, 3}
    said = capsys.readouterr().out
    assert "was stopped: the rest of it would take longer than the time that is left." in said
    assert any(
        sentence.startswith("Stopped, because they would have taken longer than the time that was left: kept at ")
        for sentence in result.left_out
    )


def test_only_one_program_may_run_a_study_with_a_time_budget(in_time, monkeypatch):
    monkeypatch.setattr(module.Leases, "take", lambda self, name: False)
    with pytest.raises(ValueError, match="Another program works on the study in .*: wait for it, or choose another"):
        study(budget_config(), in_time[0])
    with pytest.raises(ValueError, match="--cells divides the trials of a grid; with config.study.search='budget'"):
        study(budget_config(), in_time[0], part=(1, 2))


def test_a_dry_run_with_a_budget_times_one_block_only(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module.cost, "measure", lambda *_: pytest.fail("every head and depth was timed"))
    assert study(budget_config(), tmp_path, dry_run=True) is None
    said = capsys.readouterr().out
    assert "Timing one block of images" in said and "of 60 minutes (config.study.minutes)" in said
    assert not list((tmp_path / "cells").iterdir()) and not (tmp_path / "budget.json").exists()


def test_a_refused_budget_is_timed_again_by_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(
        module.cost,
        "estimate",
        lambda *_: module.cost.Timing(
            1e6, {name: 1.0 for name in NAMES}, {name: 1.0 for name in NAMES}, {name: 1 for name in NAMES}
        ),
    )
    with pytest.raises(
        ValueError, match="config.study.minutes=60 is too short: the passes over .* images alone take about"
    ):
        study(budget_config(), tmp_path)
    assert not (tmp_path / "timing.json").exists()


NAMES = [
    f"{head} {depth} pretrained" for head, depth in (("traditional", "layer3"), ("kept", "layer3"), ("kept", "fc"))
]


@pytest.mark.slow
def test_a_study_of_an_earlier_version_is_continued(done, tmp_path, monkeypatch):
    """Its config.json has no minutes, and has values of fields that a preset decides today."""
    folder, result = done
    shutil.copytree(folder, tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    old = json.loads(path.read_text())
    del old["study"]["minutes"]
    old["study"].update({"seeds": [0, 1, 2, 3, 4, 5], "selection_seeds": 0, "search": "grid", "finals": "winners"})
    assert old["study"]["views"] == 4
    path.write_text(json.dumps(old))
    monkeypatch.setattr(TrialBatch, "advance", lambda self, pause: pytest.fail("a trial was trained again"))
    assert lasting(study(study_config(), tmp_path / "old").rows) == lasting(result.rows)
    with pytest.raises(ValueError, match="config.study.search: 'grid' there, 'budget' here"):
        study(study_config(minutes=5.0), tmp_path / "old")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cache": "disk"}, "config.study.cache='disk' is not one of auto, file, memory, none"),
        ({"cache_dtype": "int8"}, "config.study.cache_dtype='int8' is not one of float32, bfloat16"),
        ({"search": "random"}, "config.study.search='random' is not one of grid, halving, budget"),
        ({"finals": "all"}, "config.study.finals='all' is not one of winners, depths"),
    ],
)
def test_errors_are_reported(changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        study(study_config(**changes), tmp_path)


def test_what_mixes_images_is_refused(tmp_path):
    config = study_config()
    config.data.mixup = 0.2
    with pytest.raises(ValueError, match="config.data.mixup=0.2 mixes images anew in every step"):
        study(config, tmp_path)
    config.update({"data": {"mixup": 0.0, "validation": 0.0}})
    with pytest.raises(ValueError, match="A study chooses on validation data, but there are none"):
        study(config, tmp_path)
    with pytest.raises(ValueError, match="needs a folder on a local or shared disk"):
        study(study_config(), "gs://bucket/study")


def test_a_worker_waits_for_trials_of_others(tmp_path, monkeypatch):
    """A trial that another worker holds is not trained here; its row appears, and is used."""
    waited = []

    def end(seconds):
        waited.append(seconds)
        leases.release("x")

    leases = type("Leases", (), {"take": lambda self, name: False, "release": lambda self, name: None})()
    monkeypatch.setattr(worker.time, "sleep", end)
    mine = worker.Work(None, None, tmp_path, leases, None)
    monkeypatch.setattr(mine, "trial_batches", lambda trials: [list(trials)])
    rows = iter([None, None, {"cell": "x"}, {"cell": "x"}, {"cell": "x"}])
    monkeypatch.setattr(mine, "row", lambda trial: next(rows))
    trial = type("Trial", (), {"name": "x"})()
    assert mine.do([trial]) == [{"cell": "x"}] and waited
