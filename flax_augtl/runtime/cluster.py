"""Cluster detection: the processes of a run, as told by flags, the environment, SLURM, Open MPI or a TPU VM."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from flax_augtl.errors import UserError

# NVIDIA's driver has one folder per GPU here.
_GPUS = "/proc/driver/nvidia/gpus"


def settings(
    environment: Mapping[str, str],
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> dict[str, Any] | None:
    """Return the arguments for `jax.distributed.initialize`; None for a process on its own.

    The first of these decides: the arguments; JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in the
    environment; a SLURM or Open MPI job of several tasks; a TPU VM. In the last two cases, JAX detects the rest itself.
    In the first two cases, a SLURM or Open MPI job adds the number of processes and the number of this one.

    Args:
      environment: the environment, such as `os.environ`.
      coordinator: "HOST:PORT" of process 0.
      num_processes: number of processes.
      process_id: number of this process, from 0.

    Raises:
      UserError: something is missing, or is not a number in its range.
    """
    job = _job(environment)
    found = _said(environment, coordinator, num_processes, process_id, job)
    if found is None and job is not None and _whole(job.num_processes) != 1:
        if not job.has_coordinator:
            raise UserError(
                f"{job.name} started several processes, and does not say where the first one is: give all of "
                "them --coordinator=HOST:PORT, the host of process 0 and a port that is free there."
            )
        found = {"cluster_detection_method": job.detection}
    elif found is not None:
        # Nothing is left to detect. JAX would ask the launcher anyway, and needs mpi4py for Open MPI 5.
        found = {**found, "cluster_detection_method": "deactivate"}
        if job is not None and not job.gpus and not job.owns_gpus:
            # The GPUs cannot be counted; take the one with the task's number, as JAX does.
            found["local_device_ids"] = [job.index_on_host]
    if found is not None and job is not None and job.gpus:
        # Like in JAX, a task takes the GPU with its number on the host; a task that shares none takes all it sees.
        own = list(range(job.gpus)) if job.owns_gpus or job.gpus == 1 else [job.index_on_host]
        return {**found, "local_device_ids": own}
    # JAX sets this variable when it finds TPU chips. A list of one host means one process.
    if found is None and environment.get("TPU_ML_PLATFORM") == "JAX" and importlib.util.find_spec("libtpu") is not None:
        hosts = environment.get("TPU_WORKER_HOSTNAMES")
        if environment.get("JAX_PLATFORMS", "tpu").startswith("tpu") and (hosts is None or "," in hosts):
            return {}
    return found


class _Job(NamedTuple):
    """A task of a launcher.

    Attributes:
      name: name of the launcher.
      detection: JAX's name for this launcher's detection method.
      num_processes: number of tasks.
      process_id: number of this task.
      index_on_host: number of this task among those on this host.
      gpus: number of GPUs that the task sees.
      owns_gpus: whether no other task uses these GPUs.
      has_coordinator: whether JAX can detect the address of the first task.
    """

    name: str
    detection: str
    num_processes: str
    process_id: str | None
    index_on_host: int
    gpus: int
    owns_gpus: bool
    has_coordinator: bool


def _job(environment: Mapping[str, str]) -> _Job | None:
    """Return this task of SLURM's `srun` or Open MPI's `mpirun`; None if neither started it."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if "SLURM_STEP_NODELIST" in environment:
        gpus = _gpus(
            environment.get("SLURM_STEP_GPUS") if visible is None else visible,
            _whole(environment.get("SLURM_GPUS_ON_NODE", 0)) or 0,
        )
        alone = environment.get("SLURM_STEP_TASKS_PER_NODE", "").split("(")[0] == "1"
        return _Job(
            "SLURM",
            "slurm",
            environment.get("SLURM_NTASKS", "1"),
            environment.get("SLURM_PROCID"),
            _whole(environment.get("SLURM_LOCALID", 0)) or 0,
            gpus,
            alone or "SLURM_GPUS_PER_TASK" in environment,
            "SLURM_LOCALID" in environment,
        )
    if "OMPI_COMM_WORLD_SIZE" in environment:
        gpus = _gpus(visible, len(os.listdir(_GPUS)) if os.path.isdir(_GPUS) else 0)
        # Up to version 4, Open MPI tells the address of its first task.
        return _Job(
            "Open MPI",
            "ompi",
            environment["OMPI_COMM_WORLD_SIZE"],
            environment.get("OMPI_COMM_WORLD_RANK"),
            _whole(environment.get("OMPI_COMM_WORLD_LOCAL_RANK", 0)) or 0,
            gpus,
            environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1",
            "OMPI_MCA_orte_hnp_uri" in environment,
        )
    return None


def _gpus(visible: str | None, here: int) -> int:
    """Return the number of GPUs in a list of visible ones; `here` if there is no list."""
    return here if visible is None else len([device for device in visible.split(",") if device])


def _said(
    environment: Mapping[str, str],
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    job: _Job | None,
) -> dict[str, Any] | None:
    """Return the settings of the user, from flags or JAX's variables, as arguments for JAX; None if there are none."""
    said = {
        "coordinator": coordinator or environment.get("JAX_COORDINATOR_ADDRESS"),
        "num_processes": environment.get("JAX_NUM_PROCESSES") if num_processes is None else num_processes,
        "process_id": environment.get("JAX_PROCESS_ID") if process_id is None else process_id,
    }
    if all(value is None for value in said.values()):
        return None
    if job is not None:
        told = {"coordinator": None, "num_processes": job.num_processes, "process_id": job.process_id}
        said = {name: told[name] if value is None else value for name, value in said.items()}
    if missing := [name for name, value in said.items() if value is None]:
        raise UserError(
            f"--{missing[0]} is missing: several processes need --coordinator=HOST:PORT, --num_processes=N "
            "and --process_id=I, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in the "
            "environment."
        )
    if ":" not in said["coordinator"]:
        raise UserError(f"--coordinator={said['coordinator']} has no port: write HOST:PORT, such as 10.0.0.2:1234.")
    count, index = _whole(said["num_processes"]), _whole(said["process_id"])
    if count is None or index is None or not 0 <= index < count:
        raise UserError(
            f"--process_id={said['process_id']} of --num_processes={said['num_processes']} does not exist: "
            "processes are numbered from 0."
        )
    return {"coordinator_address": said["coordinator"], "num_processes": count, "process_id": index}


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except ValueError:
        return None
