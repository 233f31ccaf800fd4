"""When and how `jax.distributed` is started, from the environment alone."""

import pytest

from flax_augtl.runtime import cluster

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, None),  # Inside sbatch, not srun.
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        (SLURM, {"cluster_detection_method": "slurm"}),
        # Four GPUs a node and a task each: the one of the task's number.
        (
            {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_GPUS_ON_NODE": "4", "SLURM_LOCALID": "3"},
            {"cluster_detection_method": "slurm", "local_device_ids": [3]},
        ),
        # A task a node takes all four.
        (
            {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_GPUS_ON_NODE": "4"},
            {"cluster_detection_method": "slurm", "local_device_ids": [0, 1, 2, 3]},
        ),
        # --gpus-per-task=1: every task sees one GPU, which is its number 0.
        (
            {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "3"},
            {"cluster_detection_method": "slurm", "local_device_ids": [0]},
        ),
        (
            {
                **SLURM,
                "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
                "CUDA_VISIBLE_DEVICES": "0,1",
                "SLURM_GPUS_PER_TASK": "2",
                "SLURM_LOCALID": "1",
            },
            {"cluster_detection_method": "slurm", "local_device_ids": [0, 1]},
        ),
        ({**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.1:34911"}, {"cluster_detection_method": "ompi"}),
        (
            {
                **OPEN_MPI,
                "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.1:34911",
                "CUDA_VISIBLE_DEVICES": "0,1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
            },
            {"cluster_detection_method": "ompi", "local_device_ids": [0, 1]},
        ),
        # Version 5 does not say where its first task is; the rest need not be said again.
        (
            {**OPEN_MPI, "JAX_COORDINATOR_ADDRESS": "h:1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            {
                "coordinator_address": "h:1",
                "num_processes": 2,
                "process_id": 1,
                "cluster_detection_method": "deactivate",
                "local_device_ids": [1],
            },
        ),
        (
            {**OPEN_MPI, "JAX_COORDINATOR_ADDRESS": "h:1", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"},
            {
                "coordinator_address": "h:1",
                "num_processes": 2,
                "process_id": 1,
                "cluster_detection_method": "deactivate",
            },
        ),
        (
            {
                **SLURM,
                "JAX_COORDINATOR_ADDRESS": "h:1",
                "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
                "SLURM_GPUS_ON_NODE": "2",
            },
            {
                "coordinator_address": "h:1",
                "num_processes": 2,
                "process_id": 0,
                "cluster_detection_method": "deactivate",
                "local_device_ids": [0, 1],
            },
        ),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            {
                "coordinator_address": "h:1",
                "num_processes": 2,
                "process_id": 1,
                "cluster_detection_method": "deactivate",
            },
        ),
    ],
)
def test_what_the_environment_calls_for(environment, found):
    assert cluster.settings(environment) == found


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, {}),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"JAX_PLATFORMS": "cpu"}, None),
    ],
)
def test_on_a_tpu_vm(environment, found, monkeypatch):
    assert cluster.settings({"TPU_ML_PLATFORM": "JAX", **environment}) is None  # Without libtpu.
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name == "libtpu" or None)
    assert cluster.settings({"TPU_ML_PLATFORM": "JAX", **environment}) == found


def test_arguments_win_over_the_environment():
    environment = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    assert cluster.settings(environment, "g:2", 3, 0) == {
        "coordinator_address": "g:2",
        "num_processes": 3,
        "process_id": 0,
        "cluster_detection_method": "deactivate",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("h:1", None, 0), "--num_processes is missing: several processes need --coordinator=HOST:PORT"),
        ((None, 2, 0), "--coordinator is missing"),
        (("h", 2, 0), "--coordinator=h has no port: write HOST:PORT"),
        (("h:1", 2, 2), "--process_id=2 of --num_processes=2 does not exist: processes are numbered from 0"),
        (("h:1", "two", 0), "--process_id=0 of --num_processes=two does not exist"),
    ],
)
def test_a_mistake_is_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        cluster.settings({}, *arguments)


def test_a_launcher_that_does_not_say_where_its_first_task_is():
    with pytest.raises(ValueError, match="Open MPI started several processes, and does not say where the first one is"):
        cluster.settings(OPEN_MPI)


def test_gpus_are_counted_where_no_variable_says_which_are_visible(tmp_path, monkeypatch):
    for name in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(cluster, "_GPUS", str(tmp_path))
    environment = {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "JAX_COORDINATOR_ADDRESS": "h:1"}
    assert cluster.settings(environment)["local_device_ids"] == [0, 1, 2]
    environment |= {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    assert cluster.settings(environment)["local_device_ids"] == [1]
