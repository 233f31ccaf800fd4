"""Several processes that share a run: how they start, and what they agree on."""

import hashlib
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar, cast

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from flax_augtl.errors import UserError
from flax_augtl.runtime import cluster

_Value = TypeVar("_Value")

# Seconds without a heartbeat after which a process counts as dead. JAX then ends the others, with a nonzero exit code;
# with these values in less than a minute.
HEARTBEAT = 30
SHUTDOWN = 30
# Seconds until a host sees what another host wrote to a shared disk; NFS may take a while.
VISIBLE = 30
# Seconds that the first process gives the others to print their errors: JAX ends them when it exits.
LEAVING = 2


def start(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Start `jax.distributed` if `cluster.settings` has arguments for it; call this before anything uses a device.

    Raises:
      UserError: see `cluster.settings`; or the other processes cannot be reached.
    """
    found = cluster.settings(os.environ, coordinator, num_processes, process_id)
    if found is None or jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(**found, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=SHUTDOWN)
    except RuntimeError as error:
        where = found.get("coordinator_address", "the coordinator that the environment names")
        raise UserError(
            f"The processes of this run did not find one another at {where} ({error}). Start all of them, with "
            "the same coordinator, within 5 minutes."
        ) from error


def describe() -> str:
    """Return one line with the number of this process, the number of processes, and the devices."""
    devices = jax.devices()
    kind = f"{devices[0].device_kind} ({jax.default_backend()})"
    if jax.process_count() == 1:
        return f"1 process, {len(devices)} × {kind}"
    return (
        f"process {jax.process_index()} of {jax.process_count()}, {jax.local_device_count()} of {len(devices)} × {kind} "
        "here"
    )


def is_first() -> bool:
    """Return whether this is process 0, which writes the shared files."""
    return jax.process_index() == 0


def gather(text: str) -> list[str]:
    """Return the text of every process, in order; all processes must call this at the same point."""
    if jax.process_count() == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(content)], np.int32)).reshape(-1)
    padded = np.zeros(max(1, sizes.max()), np.uint8)
    padded[: len(content)] = content
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def wait() -> None:
    """Wait until all processes have called this."""
    gather("")


def leave(code: int) -> NoReturn:
    """End this program with an exit code, without waiting for other processes.

    JAX's shutdown would wait half a minute for processes that wait for this one.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        if is_first():
            time.sleep(LEAVING)
        os._exit(code)
    sys.exit(code)


def together(function: Callable[[], _Value]) -> _Value:
    """Call a function in every process and return its value there; an error in one process is raised in all.

    Raises:
      ValueError: the error of this process, or otherwise, as a UserError, that of the first process that has one.
    """
    value, problem = None, None
    try:
        value = function()
    except ValueError as error:
        problem = error
    if jax.process_count() > 1:
        said = gather("" if problem is None else str(problem) or type(problem).__name__)
        other = next((index for index, text in enumerate(said) if text), None)
        if problem is None and other is not None:
            raise UserError(f"Process {other}: {said[other]}")
    if problem is not None:
        raise problem
    return cast(_Value, value)


def first_decides(function: Callable[[], Any]) -> Any:
    """Call a function in process 0 only, and return its value, which must fit into JSON, in all processes.

    Raises:
      ValueError: the error that the function raised; in other processes than the first, a UserError.
    """
    value = together(lambda: function() if is_first() else None)
    return value if jax.process_count() == 1 else json.loads(gather(json.dumps(value) if is_first() else "")[0])


def require_equal(text: str, message: str) -> None:
    """Check that a text is the same in all processes.

    Args:
      text: the text of this process.
      message: a sentence for the error, which also lists the text of each process.

    Raises:
      UserError: the texts differ; it is raised in every process.
    """
    texts = gather(text)
    if len(set(texts)) > 1:
        raise UserError(f"{message} " + "; ".join(f"process {index}: {each}" for index, each in enumerate(texts)) + ".")


def require_same_settings(settings: Mapping[str, Any]) -> None:
    """Check that all processes were started with the same settings.

    Raises:
      UserError: they differ; the message names the first setting that does. It is raised in every process.
    """
    here = {name: repr(value) for name, value in settings.items()}
    first, *others = (json.loads(text) for text in gather(json.dumps(here)))
    for index, other in enumerate(others, start=1):
        for name in sorted({*first, *other}):
            if first.get(name) != other.get(name):
                raise UserError(
                    "The processes were not started with the same settings: "
                    f"{name} is {first.get(name, 'not set')} in process 0 and {other.get(name, 'not set')} in "
                    f"process {index}. Start all of them with the same command, but for --process_id."
                )


def require_shared(directory: epath.PathLike) -> None:
    """Check that all processes see the same directory, which must exist.

    Raises:
      UserError: they do not; it is raised in every process.
    """
    if jax.process_count() == 1:
        return
    directory = epath.Path(directory)
    mark = directory / first_decides(lambda: f".{secrets.token_hex(8)}.tmp")

    def write() -> None:
        try:
            mark.write_text("")
        except OSError as error:
            raise UserError(f"{directory} cannot be written: {error.strerror or error}.") from error

    def look() -> None:
        until = time.monotonic() + VISIBLE
        while not mark.exists():
            if time.monotonic() > until:
                raise UserError(
                    f"{directory} on {socket.gethostname()} is not the directory that process 0 has under that "
                    "name. All processes write parts of each checkpoint: choose a --workdir on a disk that the "
                    "hosts share, or in a bucket (gs://)."
                )
            time.sleep(0.1)

    first_decides(write)
    try:
        together(look)
    finally:
        if is_first():
            mark.unlink(missing_ok=True)


def digest(tree: Any) -> str:
    """Return hexadecimal digits that depend on every bit of a tree of host arrays; constant for a single process."""
    found = hashlib.blake2b(digest_size=8)
    leaves: list[Any] = jax.tree.leaves(tree) if jax.process_count() > 1 else []
    for leaf in leaves:
        found.update(cast(Any, np.ascontiguousarray(leaf)))  # NumPy declares buffers from Python 3.12 on only.
    return found.hexdigest()


def replicated(tree: Any) -> Any:
    """Return host arrays as global arrays that every device of every process holds whole, as Orbax needs them."""
    mesh = jax.sharding.Mesh(jax.devices(), ("devices",))
    return multihost_utils.host_local_array_to_global_array(tree, mesh, jax.sharding.PartitionSpec())
