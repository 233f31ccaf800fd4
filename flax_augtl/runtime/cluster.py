"""Which processes share a run: what flags, the environment, SLURM, Open MPI or a TPU VM say of it."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from flax_augtl.errors import UserError

# One folder a GPU, where NVIDIA's driver is.
_GPUS = "/proc/driver/nvidia/gpus"


def settings(
    environment: Mapping[str, str],
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> dict[str, Any] | None:
    """Return the arguments of `jax.distributed.initialize` that are called for; None for a process on its own.

    Called for are, in this order: what the arguments say; JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID
      in
    the environment; a SLURM or Open MPI job of several tasks; a TPU VM. Of the last three JAX finds the rest out
    itself; to the first two such a job adds the number of processes and which one this is.

    Args:
      environment: such as `os.environ`.
      coordinator: "HOST:PORT" of process 0.
      num_processes: how many there are.
      process_id: which of them this one is, from 0.

    Raises:
      ValueError: something is missing, or is not a number in its range.
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
        # All is said. JAX would look at the launcher all the same, and of Open MPI 5 it wants mpi4py.
        found = {**found, "cluster_detection_method": "deactivate"}
        if job is not None and not job.gpus and not job.owns_gpus:
            # What JAX takes where it looks: of GPUs that cannot be counted here, the one of the task's number.
            found["local_device_ids"] = [job.index_on_host]
    if found is not None and job is not None and job.gpus:
        # A task takes the one GPU of its number on the host, as JAX would have it; one that has a host to itself, or
        # sees only its own, takes all that it sees.
        own = list(range(job.gpus)) if job.owns_gpus or job.gpus == 1 else [job.index_on_host]
        return {**found, "local_device_ids": own}
    # JAX marks the environment when it finds TPU chips. Where the list of hosts is given and has one, there is one
    # process.
    if found is None and environment.get("TPU_ML_PLATFORM") == "JAX" and importlib.util.find_spec("libtpu") is not None:
        hosts = environment.get("TPU_WORKER_HOSTNAMES")
        if environment.get("JAX_PLATFORMS", "tpu").startswith("tpu") and (hosts is None or "," in hosts):
            return {}
    return found


class _Job(NamedTuple):
    """What a launcher says of one of its tasks.

    Attributes:
      name: of the launcher.
      detection: JAX's name for finding the other tasks through it.
      num_processes: how many tasks there are.
      process_id: which of them this is.
      index_on_host: which of those on this host.
      gpus: how many GPUs it sees.
      owns_gpus: no other task uses them.
      has_coordinator: JAX finds out where the first task is.
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
    """Return what SLURM's `srun` or Open MPI's `mpirun` says of this task; None where neither started it."""
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
        # Up to its version 4 it says where its first task is.
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
    """Return how many GPUs a list of those that are visible has; `here` where there is no list."""
    return here if visible is None else len([device for device in visible.split(",") if device])


def _said(
    environment: Mapping[str, str],
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    job: _Job | None,
) -> dict[str, Any] | None:
    """Return what the user said, in flags or in JAX's variables, as arguments for JAX; None for nothing."""
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
