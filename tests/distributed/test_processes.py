"""Several processes for real: on one machine, of CPU devices, over the loopback."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from flax_augtl.pretrained import load_source
from flax_augtl.run import load_run
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def start(scenario, folder, processes=1, devices=1, variables=None):
    """Start the processes of a scenario of worker.py, each with so many devices, or with variables of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"].replace("device_count=4", f"device_count={devices}")
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""}
    arguments = [
        [] if processes == 1 or variables else [coordinator, str(processes), str(index)] for index in range(processes)
    ]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.worker", scenario, str(folder), *more],
            cwd=ROOT,
            env={**environment, **(variables[index] if variables else {})},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index, more in enumerate(arguments)
    ]


def run(scenario, folder, processes=1, devices=1):
    """Run a scenario to its end and return what each process said."""
    started = start(scenario, folder, processes, devices)
    said = [process.communicate(timeout=400)[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes, "\n".join(said)
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What 1 × 4, then 2 × 2, then 1 × 1 devices left."""
    folder = tmp_path_factory.mktemp("topologies")
    for processes, devices in ((1, 4), (2, 2), (1, 1)):
        said = run("topologies", folder, processes, devices)
        assert f"{processes * devices} × cpu" in said[0]
        if processes == 2:
            shutil.copytree(folder / "cut-2x2" / "checkpoints", folder / "cut-2x2-before")
    return folder


@pytest.mark.parametrize("topology", ["2x2", "1x4"])
def test_processes_and_devices_train_the_same_network_and_report_the_same_figures(folder, topology):
    one, other = (np.load(folder / f"{name}-0.npz") for name in ("1x1", topology))
    assert set(one) == set(other) and len(one) > 100
    for name in one:
        # By the scale of each array: momentum in a bias below a batch norm, for one, is nothing but rounding.
        np.testing.assert_allclose(
            other[name], one[name], rtol=0, atol=1e-6 + 1e-4 * np.abs(one[name]).max(), err_msg=name
        )
    for freeze in ("none", "layer2", "all"):
        assert one[f"{freeze}['sums']['confusion']"].sum() == other[f"{freeze}['sums']['confusion']"].sum() == 37


def test_all_processes_hold_the_same_bits(folder):
    first, second = (np.load(folder / f"2x2-{index}.npz") for index in (0, 1))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("start", ["1x4", "2x2"])
def test_a_checkpoint_of_one_topology_goes_on_in_another(folder, start):
    """1 × 4 devices → 2 processes × 2; 2 × 2 → 1 × 1 with another number of loader workers."""
    whole, cut = (
        [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", f"cut-{start}")
    )
    assert [(row["split"], row["step"]) for row in whole] == [(row["split"], row["step"]) for row in cut]
    for expected, row in zip(whole, cut, strict=True):
        np.testing.assert_allclose(row["loss"], expected["loss"], rtol=2e-4, err_msg=str(row))
    results = [json.loads((folder / name / "result.json").read_text()) for name in ("whole", f"cut-{start}")]
    assert (
        results[0]["best_step"] == results[1]["best_step"] and results[0]["test"]["n"] == results[1]["test"]["n"] == 37
    )
    np.testing.assert_allclose(results[0]["test"]["loss"], results[1]["test"]["loss"], rtol=2e-4)


def test_the_first_process_alone_writes_and_all_write_checkpoints(folder):
    first, second = (json.loads((folder / f"writes-2x2-{index}.json").read_text()) for index in (0, 1))
    assert {"cut-1x4/metrics.jsonl", "cut-1x4/lock.json", "cut-2x2/metrics.jsonl"} <= set(first)
    assert any(name.startswith("cut-1x4/.result.json") for name in first)
    assert any("/tensorboard/events" in name for name in first)
    assert second and not [
        name
        for name in second
        if "checkpoints" not in pathlib.PurePath(name).parts and "frozen.orbax-checkpoint-tmp/" not in name
    ]
    # The arrays themselves are written by TensorStore, by each process into a folder of its own.
    for index in (0, 1):
        for step in (5, 10):
            assert list((folder / "cut-2x2-before" / str(step) / "network" / f"ocdbt.process_{index}" / "d").iterdir())
    assert len(list((folder / "cut-1x4" / "tensorboard").glob("events*"))) == 2  # One a start.


def test_another_clock_and_file_order_on_one_host_change_nothing(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("bee", "ant"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(20):
            image = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{index}.png")
    run("strange_host", tmp_path, 2, 1)
    run("strange_host", tmp_path, 1, 2)
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("2x1", "1x2")
    ]
    assert [(row["split"], row["step"]) for row in rows[0]] == [(row["split"], row["step"]) for row in rows[1]]
    for one, other in zip(*rows, strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=2e-4)
    splits = [json.loads((tmp_path / name / "splits.json").read_text()) for name in ("2x1", "1x2")]
    assert splits[0] == splits[1]


def test_a_mistake_that_one_process_meets_is_told_by_all(tmp_path):
    run("refused", tmp_path, 2, 2)
    first, second = (json.loads((tmp_path / f"said-{index}.json").read_text()) for index in (0, 1))
    assert first[0] == "Process 1: The disk is gone." and second[0] == "The disk is gone."
    assert first[1] == second[1] == "no error"
    assert first[2] == second[2] and first[2].startswith("The processes see different data (images, labels, ")
    assert first[3] == second[3] == "no error"
    assert first[4] == second[4]
    assert "After step 7 the state is not the same on all devices: 1 of 2 arrays differ, the first is a" in first[4]
    assert first[5] == second[5]
    assert first[5].startswith(
        "The processes were not started with the same settings: config.steps is 2 in process 0 and 3 "
        "in process 1. Start all of them with the same command"
    )
    other = f"{tmp_path / 'run1'} on {socket.gethostname()}"
    assert second[6].startswith(f"{other} is not the directory that process 0 has")
    assert first[6] == f"Process 1: {second[6]}" and os.listdir(tmp_path / "run0") == []
    assert first[7] is second[7] is False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run of two processes that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    said = run("goes_on", folder, 2, 1)
    assert "Going on" not in said[0]
    assert all("The processes evaluate different weights or data. process 0: " in each for each in said)
    assert "Process 1: " in said[0] and all(f"{folder / 'elsewhere'} is not a run directory" in each for each in said)
    return folder


def assert_same_end(folder, whole):
    """The runs in two folders have the same metrics, result and last checkpoint, bit for bit."""
    rows, results = [], []
    for place in (folder / "run", whole / "run"):
        rows.append([{**json.loads(line), "seconds": 0} for line in (place / "metrics.jsonl").read_text().splitlines()])
        results.append({**json.loads((place / "result.json").read_text()), "seconds": 0})
    assert rows[0] == rows[1] and results[0] == results[1] and results[0]["test"]["n"] == 37
    jax.tree.map(
        np.testing.assert_array_equal, *(load_run(place / "run", step="last").variables for place in (folder, whole))
    )


def test_one_process_reads_what_several_wrote(undisturbed):
    trained = load_run(undisturbed / "run")
    assert trained.predict([np.zeros((9, 9, 3), np.uint8)]).shape == (1, 10)
    np.testing.assert_array_equal(
        load_source(None, undisturbed / "run").variables["params"]["stem"]["conv1"]["kernel"],
        trained.variables["params"]["source"]["stem"]["conv1"]["kernel"],
    )


def test_when_one_process_dies_the_other_ends_and_both_go_on_after_a_restart(tmp_path, undisturbed):
    first, second = start("dies", tmp_path, 2, 1)
    second.communicate(timeout=300)
    died = time.monotonic()
    said = first.communicate(timeout=60)[0]
    assert second.returncode == -9 and first.returncode != 0, said
    assert time.monotonic() - died < 60
    assert "Resuming from step 5 of 20." in run("goes_on", tmp_path, 2, 1)[0]
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.parametrize("name,codes", [("SIGTERM", (143, 143)), ("SIGINT", (143, 130))])
def test_when_one_process_is_told_to_end_all_do_and_go_on_after_a_restart(tmp_path, undisturbed, name, codes):
    """In the second run of the same processes: they agree on a step by a number that only rises."""
    said = run(f"preempted-{name}", tmp_path, 2, 1)
    assert all(f"exit code {code}" in each for code, each in zip(codes, said, strict=True))
    step = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert 8 <= step < 20
    assert f"Resuming from step {step} of 20." in run("goes_on", tmp_path, 2, 1)[0]
    assert_same_end(tmp_path, undisturbed)


def test_processes_that_are_told_to_end_in_an_evaluation_end_at_once(tmp_path):
    started = start("evaluates", tmp_path, 2, 1)
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [143, 143], "\n".join(said)
    assert all("\nInterrupted.\n" in each for each in said)


def free_job():
    """A job's number from which JAX makes the number of a port that is free."""
    for number in range(os.getpid() % 4096, os.getpid() % 4096 + 4096):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", 61440 + number % 4096))
                return number % 4096
            except OSError:
                continue


@pytest.mark.parametrize("launcher", ["SLURM", "Open MPI 4", "Open MPI 5"])
def test_the_tasks_of_a_launcher_find_one_another(launcher, tmp_path):
    """With the variables that `srun` and `mpirun` set, by JAX's own reading of them; neither program is here."""

    def variables(index):
        number, job = str(index), free_job()
        if launcher == "SLURM":
            return {
                "SLURM_JOB_ID": str(job),
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_NTASKS": "2",
                "SLURM_PROCID": number,
                "SLURM_LOCALID": number,
                "SLURM_STEP_TASKS_PER_NODE": "2",
            }
        where = {"OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1,10.148.0.1:34911"}
        if launcher == "Open MPI 5":
            where = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{61440 + job}"}
        return {
            **where,
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_RANK": number,
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_RANK": number,
        }

    started = start("launched", tmp_path, 2, 3, [variables(0), variables(1)])
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    for index in (0, 1):
        assert (tmp_path / f"{index}.txt").read_text() == (
            f"process {index} of 2, 3 of 6 × cpu (cpu) here 0 of 2 1 of 2"
        )


def test_a_disk_that_fails_some_of_the_processes_ends_all_of_them(tmp_path):
    begun = time.monotonic()
    started = start("fails", tmp_path, 2, 1)
    said = [process.communicate(timeout=300)[0] for process in started]
    assert all("The checkpoint of step 10 cannot be written: it takes up to " in each for each in said), "\n".join(said)
    assert sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()) == [5]
    # The first leaves without waiting half a minute for the other, which waits for it and which JAX then ends.
    assert started[0].returncode == 1 and "The disk is gone." in said[0] and started[1].returncode != 0
    assert time.monotonic() - begun < 120
