"""What a run survives: killed, interrupted, damaged, full, gone; and that it then ends as if nothing had happened."""

import gc
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

import flax_augtl
from flax_augtl.runtime import signals
from flax_augtl.training import evaluation_loop
from flax_augtl.training.checkpoints import CheckpointError, open_checkpoints
from flax_augtl.training.log import RunLog
from flax_augtl.workdir import files as run_directory
from flax_augtl.workdir import lock
from tests import small
from tests.conftest import ROOT

POINTS = (
    "before:source.json",
    "before:config.json",
    "within:config.json",
    "metrics",
    "checkpoint:half",
    "checkpoint:before commit",
    "manifest",
    "manifest:half",
    "before:classes_test.json",
    "before:result.json",
    "within:result.json",
)


# Orbax leaves coroutines behind that nobody awaits when its directory is full or gone.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def leftovers():
    """Have them collected here, and not in a test of another file."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 16 small images of two classes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for index in range(count):
            path = folder / split / "ab"[index % 2] / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (10, 10, 3), np.uint8)).save(path)
    return folder


@pytest.fixture
def changes(images):
    """What the runs here differ in from `small.digits_config`."""
    return {
        "weights": "embedded:glyphs",
        "freeze": "all",
        "batch_size": 4,
        "steps": 4,
        "evaluate_every_steps": 2,
        "data": {
            "name": "folder",
            "root": str(images),
            "shots": None,
            "validation": 4,
            "crop": "random",
            "scan_dir": "",
            "threads": 2,
        },
    }


@pytest.fixture(scope="module")
def undisturbed(images, tmp_path_factory):
    """Runs that nothing disturbed, by their settings."""
    done = {}

    def run(changes):
        key = json.dumps({name: value for name, value in changes.items() if name != "checkpoint_every_steps"})
        if key not in done:
            done[key] = flax_augtl.train(
                small.digits_config(**changes), tmp_path_factory.mktemp("undisturbed"), quiet=True
            )
        return done[key]

    return run


def train(changes, workdir):
    return flax_augtl.train(small.digits_config(**changes), workdir, quiet=True)


def rows(workdir):
    return [
        {name: value for name, value in row.items() if name != "seconds"} for row in run_directory.read_metrics(workdir)
    ]


def assert_same_end(workdir, whole):
    """The run in `workdir` has the metrics, result and last checkpoint of another, bit for bit."""
    assert rows(workdir) == rows(whole.workdir)
    result = json.loads((workdir / "result.json").read_text())
    assert {**result, "seconds": 0} == {**whole.result, "seconds": 0}
    jax.tree.map(
        np.testing.assert_array_equal,
        flax_augtl.load_run(workdir, step="last").variables,
        flax_augtl.load_run(whole.workdir, step="last").variables,
    )
    assert {path.name for path in workdir.iterdir()} == {path.name for path in pathlib.Path(whole.workdir).iterdir()}


@pytest.fixture(scope="module")
def killed(images, tmp_path_factory):
    """The run directories of processes that were killed, one a point."""
    folder = tmp_path_factory.mktemp("killed")
    settings = {
        "weights": "embedded:glyphs",
        "freeze": "all",
        "batch_size": 4,
        "steps": 4,
        "evaluate_every_steps": 2,
        "data": {
            "name": "folder",
            "root": str(images),
            "shots": None,
            "validation": 4,
            "crop": "random",
            "scan_dir": "",
            "threads": 2,
        },
    }
    (folder / "config.json").write_text(json.dumps(settings))
    places = {point: folder / str(index) for index, point in enumerate(POINTS)}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.integration.child",
            folder / "config.json",
            *(f"{point}={place}" for point, place in places.items()),
        ],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=900,
    )
    ends = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert ends == dict.fromkeys(POINTS, "-9"), done.stderr
    return places


@pytest.mark.parametrize("point", POINTS)
def test_kill_9_at_a_named_point(point, killed, changes, undisturbed, capfd):
    workdir = killed[point]
    assert not (workdir / "result.json").exists()
    before = {path.name for path in (workdir / "checkpoints").glob("*")}
    if point.startswith("checkpoint"):
        assert any(name.startswith("4.") for name in before) and "4" not in before
    if point.startswith("manifest"):
        assert "4" in before and not (workdir / "checkpoints" / "4" / "SHA256SUMS").exists()
        assert flax_augtl.load_run(workdir, step="last").step == 2
        assert "The checkpoint of step 4 is not used, because it has no SHA256SUMS" in capfd.readouterr().err
    flax_augtl.train(small.digits_config(**changes), workdir)
    assert "did not end properly (process " in capfd.readouterr().err
    assert_same_end(workdir, undisturbed(changes))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_and_its_own_exit_code(number, code, changes, undisturbed, tmp_path):
    changes = {**changes, "steps": 300, "evaluate_every_steps": 300}
    (tmp_path / "config.py").write_text(
        f"from tests import small\n\n\ndef get_config():\n    return small.digits_config(**{changes!r})\n"
    )
    process = subprocess.Popen(
        [sys.executable, "main.py", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 2):
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == code, said
    (step,) = (int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert 3 <= step < 300 and f"Interrupted after step {step} of 300; its checkpoint is written." in said
    assert "The same command resumes from the last checkpoint." in said and "Traceback" not in said
    assert not (tmp_path / "run" / "lock.json").exists()
    train(changes, tmp_path / "run")
    assert_same_end(tmp_path / "run", undisturbed(changes))


def test_a_second_ctrl_c_leaves_at_once(changes, tmp_path):
    """In a main thread that is busy, as with a compilation, where no signal handler written in Python runs."""
    program = (
        "import sys, threading, time\nfrom flax_augtl import interruption\n"
        "with interruption.handled():\n    interruption.defer()\n    print('ready', flush=True)\n"
        "    sum(1 for _ in iter(int, 1))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n" and "Ctrl-C again stops at once" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.communicate()


def test_training_from_python_leaves_signals_alone(changes, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(RunLog, "step", lambda *_: seen.append([signal.getsignal(n) for n in (2, 15)]))
    handlers = [signal.getsignal(n) for n in (2, 15)]
    train(changes, tmp_path)
    assert len(seen) == 4 and all(found == handlers for found in seen)


def test_a_signal_during_an_evaluation_leaves_it_to_the_restart(changes, undisturbed, tmp_path, monkeypatch):
    evaluated, calls = evaluation_loop.eval_batches, []

    def interrupted(*args, **settings):
        calls.append(1)
        for batch in evaluated(*args, **settings):
            if len(calls) in (1, 3):  # The second is the first again, by the restart.
                signal.raise_signal(signal.SIGTERM)
            yield batch

    monkeypatch.setattr(evaluation_loop, "eval_batches", interrupted)
    for step in (2, 4):  # Of the last step too.
        with signals.handled(), pytest.raises(signals.Interrupted) as error:
            train(changes, tmp_path / "run")
        assert error.value.exit_code == 143
        with open_checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
            assert checkpoints.steps()[-1] == step and checkpoints.progress(step).evaluation_due
    train(changes, tmp_path / "run")
    assert_same_end(tmp_path / "run", undisturbed(changes))


def test_a_restart_that_is_killed_after_its_evaluation_has_lost_nothing(changes, undisturbed, tmp_path, monkeypatch):
    evaluated = evaluation_loop.eval_batches

    def interrupted(*args, **settings):
        for batch in evaluated(*args, **settings):
            signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(evaluation_loop, "eval_batches", interrupted)
        with signals.handled(), pytest.raises(signals.Interrupted):
            train({**changes, "evaluate_every_steps": 4}, tmp_path / "run")
    # Killed between the evaluation that was made up for and the next checkpoint: there is none at the last step.
    with monkeypatch.context() as patch:
        patch.setattr("flax_augtl.run.finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train({**changes, "evaluate_every_steps": 4}, tmp_path / "run")
    with open_checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [4] and not checkpoints.damage(4)
    train({**changes, "evaluate_every_steps": 4}, tmp_path / "run")
    assert_same_end(tmp_path / "run", undisturbed({**changes, "evaluate_every_steps": 4}))


def test_a_run_whose_extension_was_interrupted_is_not_finished(changes, tmp_path, monkeypatch):
    train(changes, tmp_path / "run")
    longer = {**changes, "steps": 8}
    with monkeypatch.context() as patch:
        small.at_step(5, lambda: signal.raise_signal(signal.SIGTERM), patch)
        with signals.handled(), pytest.raises(signals.Interrupted):
            flax_augtl.train(small.digits_config(**longer), tmp_path / "run", extend=True, quiet=True)
    assert not (tmp_path / "run" / "result.json").exists()
    run = train(longer, tmp_path / "run")
    assert run.result is not None and rows(tmp_path / "run")[-1]["split"] == "test"
    assert flax_augtl.load_run(tmp_path / "run", step="last").step == 8


def test_the_lock_of_another_program_is_left(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    with lock.lock(workdir):
        workdir.rename(tmp_path / "moved")
        workdir.mkdir()
        (workdir / "lock.json").write_text("of another")
    assert (workdir / "lock.json").read_text() == "of another"


class TestDamage:
    """A newest checkpoint that is not what was written."""

    @pytest.fixture
    def unfinished(self, changes, undisturbed, tmp_path):
        """A copy of a run that ended before its result was written: checkpoints 2 and 4."""
        shutil.copytree(undisturbed(changes).workdir, tmp_path / "run")
        (tmp_path / "run" / "result.json").unlink()
        return tmp_path / "run"

    @pytest.mark.parametrize("damaged", ["flipped", "truncated"])
    def test_the_one_before_is_used(self, damaged, unfinished, changes, undisturbed, capfd):
        files = [path for path in (unfinished / "checkpoints" / "4").rglob("*") if path.is_file()]
        path = max(files, key=lambda path: path.stat().st_size)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content if damaged == "flipped" else content[: len(content) // 2])
        assert flax_augtl.load_run(unfinished, step="last").step == 2
        said = capfd.readouterr().err
        assert (
            f"The checkpoint of step 4 is not used, because {path.relative_to(unfinished / 'checkpoints/4')} is" in said
        )
        with pytest.raises(CheckpointError, match="step 4 in .* cannot be used: .* is damaged"):
            flax_augtl.load_run(unfinished, step=4)
        assert not capfd.readouterr().err  # No other is used where this one was asked for.
        flax_augtl.train(small.digits_config(**changes), unfinished)
        assert "Step 2 is used instead." in capfd.readouterr().err
        assert_same_end(unfinished, undisturbed(changes))

    def test_all_damaged_is_an_error_that_names_them(self, unfinished, changes):
        before = {path for path in unfinished.rglob("*")}
        for step in (2, 4):
            path = unfinished / "checkpoints" / str(step) / "progress" / "metadata"
            path.write_bytes(path.read_bytes()[:-1])
        message = (
            r"All checkpoints in .* are damaged:\n  step 4: progress/metadata is damaged.*\n  step 2: progress/meta"
        )
        with pytest.raises(CheckpointError, match=message):
            train(changes, unfinished)
        with pytest.raises(CheckpointError, match=message):
            flax_augtl.load_run(unfinished)
        assert {path for path in unfinished.rglob("*")} == before

    def test_a_run_is_no_source_with_damaged_weights(self, changes, undisturbed, tmp_path):
        shutil.copytree(undisturbed(changes).workdir, tmp_path / "run")
        for path in (tmp_path / "run" / "checkpoints").glob("*/network/_METADATA"):
            path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(
            ValueError, match="the checkpoint of its best step, [24], cannot be used: network/_METADATA is"
        ):
            flax_augtl.load_source("resnet20", tmp_path / "run")


@pytest.mark.parametrize(
    ("total", "message"),
    [
        (
            1,
            r"The checkpoint of step \d cannot be written: it takes up to 2\.\d MB, and the disk of .* has 0\.\d MB left\.",
        ),
        (0, "cannot be written: No space left on device"),
    ],
)  # A file system that does not say how much room there is.
def test_a_full_disk(total, message, small_disk, changes, undisturbed, monkeypatch):
    folder, remount = small_disk
    # Nothing is frozen: the whole network is in each checkpoint.
    changes = {**changes, "freeze": "none", "steps": 8, "keep_checkpoints": 10}
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(total=total))
    with pytest.raises(ValueError, match=message):
        train(changes, folder / "run")
    assert not (folder / "run" / "result.json").exists() and not (folder / "run" / "lock.json").exists()
    remount("size=64m")
    train(changes, folder / "run")
    assert_same_end(folder / "run", undisturbed(changes))


def test_a_read_only_workdir(small_disk, changes):
    folder, remount = small_disk
    remount("ro")
    with pytest.raises(ValueError, match=r"--workdir=.*disk cannot be written: Read-only file system"):
        train(changes, folder)
    remount("rw")


def test_a_workdir_that_disappears(changes, undisturbed, tmp_path, monkeypatch):
    small.at_step(3, lambda: (tmp_path / "run").rename(tmp_path / "gone"), monkeypatch)
    with pytest.raises(ValueError, match=r"cannot be written: .*(?i:no such file)"):
        train(changes, tmp_path / "run")
    train(changes, tmp_path / "run")
    assert_same_end(tmp_path / "run", undisturbed(changes))


def test_an_image_that_becomes_unreadable(changes, undisturbed, images, tmp_path, monkeypatch):
    changes = {**changes, "steps": 60, "evaluate_every_steps": 10}
    path = sorted((images / "train").rglob("*.png"))[3]
    content = path.read_bytes()
    small.at_step(11, lambda: path.write_bytes(content[:40]), monkeypatch)
    with pytest.raises(ValueError, match=f"The image {path} cannot be read: .*Repair or remove it"):
        train(changes, tmp_path / "run")
    assert flax_augtl.load_run(tmp_path / "run", step="last").step >= 10
    with pytest.raises(ValueError, match=f"The image {path} cannot be read"):
        train(changes, tmp_path / "run")
    path.write_bytes(content)
    train(changes, tmp_path / "run")
    assert_same_end(tmp_path / "run", undisturbed(changes))


def kill_workers():
    """Kill the processes that the loader of this one has started."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        name, fields = stat.parent.name, stat.read_text().rpartition(")")[2].split()
        if fields[1] == str(os.getpid()) and b"loading.workers" in (stat.parent / "cmdline").read_bytes():
            os.kill(int(name), signal.SIGKILL)


def test_a_worker_that_is_killed_is_an_error_and_not_a_hang(changes, undisturbed, tmp_path, monkeypatch):
    changes = {**changes, "steps": 120, "evaluate_every_steps": 10, "data": {**changes["data"], "workers": 1}}
    small.at_step(11, kill_workers, monkeypatch)
    with pytest.raises(ValueError, match=r"A worker process that reads images has ended \(exit code -9\)"):
        train(changes, tmp_path / "run")
    assert flax_augtl.load_run(tmp_path / "run", step="last").step >= 10
    train(changes, tmp_path / "run")
    whole = undisturbed({**changes, "data": {**changes["data"], "workers": 0}})
    assert_same_end(tmp_path / "run", whole)


def test_images_that_come_or_go_between_two_starts_are_noticed(changes, images, tmp_path, monkeypatch):
    shutil.copytree(images, tmp_path / "images")
    changes = {**changes, "data": {**changes["data"], "root": str(tmp_path / "images")}}

    def stop():
        raise KeyboardInterrupt

    small.at_step(3, stop, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(changes, tmp_path / "run")
    shutil.copy(tmp_path / "images/train/a/00.png", tmp_path / "images/train/b/more.png")
    with pytest.raises(ValueError, match=r"The data have changed since the run in .* was started"):
        train(changes, tmp_path / "run")


def test_a_second_program_in_one_workdir_is_refused_and_readers_are_not(changes, undisturbed, tmp_path, capfd):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed(changes).workdir, workdir)
    (workdir / "result.json").unlink()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom flax_augtl.workdir import lock\n"
            "with lock.lock(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(600)",
            workdir,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    said = rf"is in use: process {holder.pid} on \S+, since 20\d\d-\S+ is writing into it. Wait for it, or choose"
    with pytest.raises(lock.Locked, match=said):
        train(changes, workdir)
    with pytest.raises(lock.Locked, match=said), lock.lock(workdir):
        pass
    assert flax_augtl.load_run(workdir).evaluate("test")["n"] == 4
    holder.kill()
    holder.communicate()
    assert (workdir / "lock.json").exists()  # It is stale now.
    flax_augtl.train(small.digits_config(**changes), workdir)
    assert f"did not end properly (process {holder.pid} on " in capfd.readouterr().err
    assert_same_end(workdir, undisturbed(changes))
