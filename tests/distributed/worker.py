"""One of several processes that share a run, as the tests start it: worker.py SCENARIO FOLDER [COORDINATOR N I]."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import sys
import time
import types

import jax
import numpy as np

import main
from flax_augtl import cli
from flax_augtl.config.convert import typed
from flax_augtl.data import dataset_from_arrays
from flax_augtl.data.sources.digits import digits
from flax_augtl.run import load_run, train
from flax_augtl.runtime import distributed, signals
from flax_augtl.training import evaluation_loop, loop, replicas
from flax_augtl.training.evaluation import evaluation
from flax_augtl.training.experiment import prepare
from flax_augtl.training.freezing import freezing_plan
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.pmapped import replicate
from flax_augtl.training.progress import Progress
from flax_augtl.training.state import create_state
from flax_augtl.training.step import AXIS
from flax_augtl.workdir import files
from tests import small

FREEZES = ("none", "layer2", "all")


def config(freeze="all", **changes):
    data = {"name": "digits", "shots": 4, "validation": 0.25, "crop": "none", "flip": True, "shift": 1}
    return small.digits_config(
        **{
            "weights": "embedded:glyphs",
            "freeze": freeze,
            "steps": 20,
            "evaluate_every_steps": 10,
            "checkpoint_every_steps": 5,
            "learning_rate": 0.001,
            "check_replicas_every": 5,
            "data": data,
            "head": {"preset": "kept_deeper_batch", "new_layers": (16,)},
            **changes,
        }
    )


def dataset():
    """Few images, so that a process ends soon; 37 test images are no multiple of a batch or of the devices."""
    source, labels = digits()
    images, labels = source.images[:117], np.asarray(labels[:117])
    return dataset_from_arrays(
        images[37:],
        labels[37:],
        test=(images[:37], labels[:37]),
        class_names=[str(digit) for digit in range(10)],
        data={"validation": 0.25},
    )


def same(folder):
    """Train a tiny network for 20 steps, wholly, partly and with everything frozen but the head, and evaluate it."""
    prepared = prepare(typed(config()), dataset())
    net = small.network("kept_deeper_batch", num_classes=10, axis_name=AXIS)
    saved = {}
    for freeze in FREEZES:
        plan = freezing_plan(net.groups, freeze)
        experiment = dataclasses.replace(prepared, network=net, plan=plan, variables=small.variables(net))
        state = create_state(experiment.variables, create_optimizer(experiment.optimizer, plan), plan, seed=0)
        state, progress = loop.fit(experiment, state, Progress())
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        found = evaluation(
            net, experiment.preprocessing, variables, experiment.dataset.test, experiment.config.data, batch_size=8
        )
        tree = {
            "state": (variables, state.opt_state),
            "sums": found.sums,
            "probabilities": found.probabilities,
            "best": [progress.best_value, progress.best_loss],
        }
        saved |= {
            f"{freeze}{jax.tree_util.keystr(path)}": np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
    np.savez(folder / f"{name_of_topology()}-{jax.process_index()}.npz", **saved)


def name_of_topology():
    return f"{jax.process_count()}x{jax.local_device_count()}"


def first_half(folder):
    """Start a run that ends after 10 steps, as if all processes had been cut off."""
    split, calls = loop.split_over_devices, []

    def cut_off(batch, devices):
        calls.append("id" in batch)
        if sum(calls) > 10:
            raise InterruptedError
        return split(batch, devices)

    loop.split_over_devices = cut_off
    try:
        train(config(), folder / f"cut-{name_of_topology()}", dataset=dataset(), quiet=True)
    except InterruptedError:
        loop.split_over_devices = split
    distributed.wait()


def second_half(folder, other, **changes):
    """Go on with a run that was started in another topology."""
    run = train(config(**changes), folder / f"cut-{other}", dataset=dataset(), quiet=True)
    again = load_run(run.workdir).evaluate(dataset=dataset())
    np.testing.assert_allclose(again["loss"], run.result["test"]["loss"], rtol=1e-5)


def recorded_writes(folder):
    """Return the list that the names of all files are added to that this process writes below a folder, from now on."""
    written = []

    def record(event, arguments):
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            changing = set(arguments[1] or "") & set("wax+") or arguments[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            changing = event in ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink")
        if changing and (path := pathlib.Path(os.fsdecode(arguments[0]))).is_relative_to(folder):
            written.append(str(path.relative_to(folder)))

    sys.addaudithook(record)
    return written


def topologies(folder):
    """What one topology does in one start: 1 × 4, then 2 × 2, then 1 × 1."""
    same(folder)
    written = recorded_writes(folder)
    match name_of_topology():
        case "1x4":
            train(config(), folder / "whole", dataset=dataset(), quiet=True)
            first_half(folder)
        case "2x2":
            second_half(folder, "1x4")
            first_half(folder)
        case "1x1":
            data = {**config().data.to_dict(), "workers": 1}
            second_half(folder, "2x2", data=data)
    found = sorted(set(written))
    (folder / f"writes-{name_of_topology()}-{jax.process_index()}.json").write_text(json.dumps(found))


def strange_host(folder):
    """Process 1 has another clock, which also runs faster, and lists folders the other way round."""
    if jax.process_index() == 1:
        clock, monotonic, listdir = time.time, time.monotonic, os.listdir
        time.time = lambda: 1e9 + 5 * clock()
        time.monotonic = lambda: 77 + 5 * monotonic()
        os.listdir = lambda *arguments: sorted(listdir(*arguments), reverse=True)
    changes = {
        "steps": 6,
        "evaluate_every_steps": 2,
        "checkpoint_every_steps": 1,
        "early_stopping": 3,
        "data": {"name": "folder", "root": str(folder / "photos"), "validation": 0.25, "crop": "none", "scan_dir": ""},
    }
    train(config(**changes), folder / name_of_topology(), quiet=True)


def refused(folder):
    """Every process reports an error that any process has."""
    said = []

    def attempt(function):
        try:
            function()
        except ValueError as error:
            said.append(str(error))
        else:
            said.append("no error")

    def only_one():
        if jax.process_index() == 1:
            raise ValueError("The disk is gone.")

    attempt(lambda: distributed.together(only_one))
    attempt(lambda: distributed.first_decides(lambda: only_one() or "fine"))
    images = np.zeros((8, 8, 8, 3), np.uint8) + np.arange(8, dtype=np.uint8)[:, None, None, None]
    mine = dataset_from_arrays(
        images, [i % 2 for i in range(8)] if jax.process_index() else [0, 1, 1, 0] * 2, test=(images + 9, [0, 1] * 4)
    )
    attempt(lambda: train(config(steps=2), folder / "run", dataset=mine, quiet=True))
    state = replicate({"a": np.arange(6, dtype=np.float32), "b": np.int32(3)})
    attempt(lambda: replicas.check_replicas(state, 7))
    state["a"] = replicate(np.arange(6, dtype=np.float32) + np.float32(1e-6 * jax.process_index()))
    attempt(lambda: replicas.check_replicas(state, 7))
    attempt(lambda: train(config(steps=2 + jax.process_index()), folder / "run", dataset=mine, quiet=True))
    distributed.VISIBLE = 1
    threads = {**config().data.to_dict(), "threads": 1 + jax.process_index()}  # These may differ.
    attempt(lambda: train(config(data=threads), folder / f"run{jax.process_index()}", dataset=dataset(), quiet=True))
    (folder / f"said-{jax.process_index()}.json").write_text(json.dumps([*said, (folder / "run").exists()]))
    distributed.wait()


def launched(folder):
    """What a launcher's variables, which JAX itself reads, lead to."""
    (folder / f"{jax.process_index()}.txt").write_text(
        " ".join([distributed.describe(), *distributed.gather(f"{jax.process_index()} of {jax.process_count()}")])
    )
    distributed.wait()


def before_step(step, act):
    """Have process 1 do something before a step of the training that comes next."""
    split, batches = loop.split_over_devices, []

    def acting(batch, devices):
        batches.append("id" in batch)  # Those of an evaluation have none.
        if sum(batches) == step and batches[-1] and jax.process_index() == 1:
            act()
        return split(batch, devices)

    loop.split_over_devices = acting


def dies(folder):
    """Process 1 is killed in mid-run, as by the kernel for want of memory; a checkpoint is there by then."""

    def killed():
        while not (folder / "run" / "checkpoints" / "5" / "SHA256SUMS").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), 9)

    before_step(8, killed)
    train(config(), folder / "run", dataset=dataset(), quiet=True)


def preempted(folder, name):
    """Process 1 alone is told to end, in the second of two runs of these processes."""

    def told():
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(3)  # JAX looks for a signal once a second; these steps take milliseconds.

    with signals.handled():
        train(config(steps=3), folder / "first", dataset=dataset(), quiet=True)
        before_step(8, told)
        try:
            train(config(), folder / "run", dataset=dataset(), quiet=True)
        except signals.Interrupted as error:
            print(f"exit code {error.exit_code}", flush=True)
    distributed.wait()


def evaluates(folder):
    """All are told to end in an evaluation from the command line, after a training that made the run."""
    train(config(steps=2), folder / "run", quiet=True)
    split = evaluation_loop.split_over_devices

    def told(batch, devices):
        signal.raise_signal(signal.SIGTERM)
        return split(batch, devices)

    evaluation_loop.split_over_devices = told
    main.FLAGS(["main.py", "--mode=evaluate", f"--workdir={folder / 'run'}"])
    cli.run(main.FLAGS)


def fails(folder):
    """The disk has no room for the second checkpoint; then a file of the first process alone cannot be written."""
    free = iter([10**9, 1, *[10**9] * 9])
    shutil.disk_usage = lambda path: types.SimpleNamespace(total=10**9, free=next(free))
    try:
        train(config(), folder / "run", dataset=dataset(), quiet=True)
    except ValueError as error:
        print(error, flush=True)
    write_bytes = files.write_bytes

    def written(path, content):
        if path.name == files.RESULT:
            raise files.CannotWrite("The disk is gone.")
        write_bytes(path, content)

    if jax.process_index() == 0:
        files.write_bytes = written
        (folder / "config.py").write_text(
            "from tests.distributed import worker\n\n\ndef get_config():\n    return worker.config(steps=2)\n"
        )
    distributed.wait()
    main.FLAGS(["main.py", f"--config={folder / 'config.py'}", f"--workdir={folder / 'other'}"])
    cli.run(main.FLAGS)


def goes_on(folder):
    """Both go on after a restart, and the run can be loaded and evaluated."""
    run = train(config(), folder / "run", dataset=dataset())
    again = load_run(folder / "run")
    values = again.evaluate("test", dataset=dataset())
    steps = [int(path.name) for path in (folder / "run" / "checkpoints").iterdir()]
    other = load_run(folder / "run", step=(min if jax.process_index() == 0 else max)(steps))
    for mistaken in (
        lambda: other.evaluate("test", dataset=dataset()),
        lambda: load_run(folder / ("run" if jax.process_index() == 0 else "elsewhere")),
    ):
        try:
            mistaken()
        except ValueError as error:
            print(error, flush=True)
    assert values["n"] == run.result["test"]["n"] == 37
    np.testing.assert_allclose(values["loss"], run.result["test"]["loss"], rtol=1e-6)


if __name__ == "__main__":
    scenario, where, *arguments = sys.argv[1:]
    distributed.start(*(arguments and [arguments[0], int(arguments[1]), int(arguments[2])]))
    print(distributed.describe(), flush=True)
    scenario, *details = scenario.split("-")
    globals()[scenario](pathlib.Path(where), *details)
