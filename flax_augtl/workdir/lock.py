"""The lock of a run directory: two programs that write into one would each spoil the other's run.

The operating system holds the lock for as long as the program lives (`flock`), so that one that was killed leaves none
behind, only the file that says who it was. Readers take no lock. A bucket such as gs:// has none to offer.
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
    """Another program writes into the run directory; the message says which."""


@contextlib.contextmanager
def lock(workdir: epath.PathLike, say: Callable[[str], Any] = print) -> Iterator[None]:
    """Hold the lock of a run directory within a with statement.

    Args:
      workdir: it exists.
      say: is given a sentence where the directory was left by a program that was killed, or where it cannot be locked.

    Raises:
      Locked: another program holds it.
      ValueError: the lock cannot be written.
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
            say(f"The program that wrote into {workdir} before did not end properly ({_holder(left)}); going on.")
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
        with contextlib.suppress(OSError):  # The directory may be gone, or read-only by now, or another one.
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                os.unlink(path)
        os.close(descriptor)


def check(workdir: epath.PathLike) -> None:
    """Raise Locked if another program holds the lock; nothing is written."""
    path = os.path.join(os.fspath(workdir), NAME)
    if "://" in os.fspath(workdir) or fcntl is None or not os.path.exists(path):
        return
    with contextlib.suppress(OSError), open(path, "rb") as file:
        _take(file.fileno(), path)


def _locked(path: str) -> int:
    """Open and lock the file, and return its descriptor."""
    while True:
        # A link is not followed: the file that it leads to is none of ours.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            _take(descriptor, path)
            # The holder before may have removed the file between the two calls; then the lock is on no file.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _take(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked(
            f"{os.path.dirname(path)} is in use: {_holder(os.pread(descriptor, 4096, 0))} is writing into it. "
            "Wait for it, or choose another --workdir."
        ) from None


def _holder(content: bytes) -> str:
    """Say who is named in a lock file."""
    try:
        owner = json.loads(content)
        return f"process {int(owner['pid'])} on {str(owner['host'])[:100]}, since {str(owner['since'])[:40]}"
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
        return "a program that is just starting"
