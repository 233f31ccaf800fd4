"""The lock of a run directory, so that no two programs write into it.

The operating system holds the lock (`flock`) for as long as the program lives. A killed program leaves no lock behind,
only the file with its name. Readers take no lock. Buckets such as gs:// have no locks.
"""

import contextlib
import datetime
import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from flax_augtl.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = "lock.json"
_UNSUPPORTED = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)


class Locked(UserError):
    """Another program is writing into the run directory; the message says which one."""


@contextlib.contextmanager
def lock(workdir: epath.PathLike, say: Callable[[str], Any] = print) -> Iterator[None]:
    """Hold the lock of a run directory within a with statement.

    Args:
      workdir: an existing run directory.
      say: called with a sentence if the program before was killed, or if the directory cannot be locked.

    Raises:
      Locked: another program holds the lock.
      UserError: the lock file cannot be written.
    """
    if "://" in os.fspath(workdir) or fcntl is None:
        yield
        return
    path = os.path.join(os.fspath(workdir), NAME)
    try:
        descriptor = _locked(path)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
        say(f"{workdir} is on a file system without locks: take care that no other program writes into it.")
        yield
        return
    try:
        if (left := os.pread(descriptor, 4096, 0)).strip():
            say(f"The program that wrote into {workdir} before did not end properly ({_holder(left)}); continuing.")
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(owner) + "\n").encode(), 0)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
        yield
    finally:
        with contextlib.suppress(OSError):  # The directory may be gone, read-only, or replaced by another one.
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                os.unlink(path)
        os.close(descriptor)


def check(workdir: epath.PathLike) -> None:
    """Raise Locked if another program holds the lock; write nothing."""
    path = os.path.join(os.fspath(workdir), NAME)
    if "://" in os.fspath(workdir) or fcntl is None or not os.path.exists(path):
        return
    with contextlib.suppress(OSError), open(path, "rb") as file:
        _take(file.fileno(), path)


def _locked(path: str) -> int:
    """Open and lock the file, and return its descriptor."""
    while True:
        # Do not follow a link to a file that is not ours.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            _take(descriptor, path)
            # If the previous holder has removed the file in between, the lock is on a deleted file: try again.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _take(descriptor: int, path: str) -> None:
    assert fcntl is not None, "callers check this"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked(
            f"{os.path.dirname(path)} is in use: {_holder(os.pread(descriptor, 4096, 0))} is writing into it. "
            "Wait for it, or choose another --workdir."
        ) from None


def _holder(content: bytes) -> str:
    """Return a phrase about the program that a lock file names."""
    try:
        owner = json.loads(content)
        return f"process {int(owner['pid'])} on {str(owner['host'])[:100]}, since {str(owner['since'])[:40]}"
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
        return "a program that is just starting"
