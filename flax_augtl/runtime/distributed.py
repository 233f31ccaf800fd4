"""Several processes, one run: starting JAX's own engine, and what the processes must agree on."""

import hashlib
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from flax_augtl.errors import UserError
from flax_augtl.runtime import cluster

# Seconds without a sign of life after which a process counts as dead. JAX then ends the others, with an exit code that
# is not zero; with these figures in less than a minute.
HEARTBEAT = 30
SHUTDOWN = 30
# Seconds until a host sees what another has written to a shared disk; NFS may take a while.
VISIBLE = 30
# Seconds that the first process, with which JAX ends the others, leaves them to say what they may have met as well.
LEAVING = 2


def start(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Start `jax.distributed` where `launchers.settings` calls for it; before anything else uses a device of JAX.

    Raises:
      ValueError: see `launchers.settings`; or the other processes cannot be reached.
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
    """Return one line: which process this is, of how many, and the devices."""
    devices = jax.devices()
    kind = f"{devices[0].device_kind} ({jax.default_backend()})"
    if jax.process_count() == 1:
        return f"1 process, {len(devices)} × {kind}"
    return (
        f"process {jax.process_index()} of {jax.process_count()}, {jax.local_device_count()} of {len(devices)} × {kind} "
        "here"
    )


def is_first() -> bool:
    """Tell whether this is process 0, the one that writes what is written once."""
    return jax.process_index() == 0


def gather(text: str) -> list[str]:
    """Return the text of every process, in their order; all of them must call this at the same point."""
    if jax.process_count() == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(content)], np.int32)).reshape(-1)
    padded = np.zeros(max(1, sizes.max()), np.uint8)
    padded[: len(content)] = content
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def wait() -> None:
    """Wait until all processes are here."""
    gather("")


def leave(code: int) -> NoReturn:
    """End this program with an exit code, whatever other processes do.

    JAX's own end waits half a minute for processes that wait for this one.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        if is_first():
            time.sleep(LEAVING)
        os._exit(code)
    sys.exit(code)


def together(function: Callable[[], Any]) -> Any:
    """Call a function in every process and return its value there; a mistake found by one of them is raised in all.

    Raises:
      ValueError: what the first process that met one met.
    """
    value, mistake = None, None
    try:
        value = function()
    except ValueError as error:
        mistake = error
    if jax.process_count() > 1:
        said = gather("" if mistake is None else str(mistake) or type(mistake).__name__)
        other = next((index for index, text in enumerate(said) if text), None)
        if mistake is None and other is not None:
            raise UserError(f"Process {other}: {said[other]}")
    if mistake is not None:
        raise mistake
    return value


def first_decides(function: Callable[[], Any]) -> Any:
    """Call a function in process 0 alone and return its value, which JSON can hold, in all: what files say is read once.

    Raises:
      ValueError: what the function raised.
    """
    value = together(lambda: function() if is_first() else None)
    return value if jax.process_count() == 1 else json.loads(gather(json.dumps(value) if is_first() else "")[0])


def require_equal(text: str, message: str) -> None:
    """Raise ValueError, in every process, unless the text is the same in all.

    Args:
      text: what must be equal.
      message: a sentence, followed by what each process has.
    """
    texts = gather(text)
    if len(set(texts)) > 1:
        raise UserError(f"{message} " + "; ".join(f"process {index}: {each}" for index, each in enumerate(texts)) + ".")


def require_same_settings(settings: Mapping[str, Any]) -> None:
    """Raise ValueError, in every process, unless all were started with the same settings; it names the first other one."""
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
    """Raise ValueError, in every process, unless all of them see the directory that process 0 sees, which exists."""
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
    """Return hexadecimal digits that depend on every bit of a tree of host arrays; nothing where there is one process."""
    found = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves(tree) if jax.process_count() > 1 else ():
        found.update(np.ascontiguousarray(leaf))
    return found.hexdigest()


def replicated(tree: Any) -> Any:
    """Return host arrays as arrays that lie, whole, on every device of every process, which is how Orbax wants them."""
    mesh = jax.sharding.Mesh(jax.devices(), ("devices",))
    return multihost_utils.host_local_array_to_global_array(tree, mesh, jax.sharding.PartitionSpec())
