"""Leases on a shared POSIX file system: they tell which worker does what, and expire when that worker falls silent."""

import glob
import json
import os
import socket
import threading
import time
from pathlib import Path

from flax_augtl.workdir.files import CannotWrite


class Leases:
    """The leases of one worker.

    Generation g of the lease on a name is the file NAME.g. Creating it is atomic, so only one worker can. The highest
    generation counts. Its worker touches the file regularly. If a lease was not touched for `seconds` seconds, another
    worker takes it over by creating the next generation. The clocks of several machines may differ by less than that.
    """

    def __init__(self, folder: Path, seconds: float):
        """Start the thread that keeps this worker's leases alive.

        Args:
          folder: where the lease files are; shared by all workers.
          seconds: after which the leases of a silent worker expire.

        Raises:
          CannotWrite: the folder cannot be created.
        """
        self._folder, self._seconds = folder, seconds
        self._held: dict[str, Path] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._thread = threading.Thread(target=self._touch, daemon=True, name="leases")
        self._thread.start()

    def _cannot_write(self, error: OSError) -> CannotWrite:
        return CannotWrite(f"The leases in {self._folder} cannot be written: {error.strerror or error}.")

    def _touch(self) -> None:
        while not self._stop.wait(self._seconds / 5):
            with self._lock:
                for path in self._held.values():
                    try:
                        os.utime(path)
                    except OSError:
                        continue  # The next touch may succeed; otherwise another worker takes the lease over.

    def _generations(self, name: str) -> list[tuple[int, Path]]:
        found = [path for path in self._folder.glob(f"{glob.escape(name)}.*") if path.suffix[1:].isdecimal()]
        return sorted((int(path.suffix[1:]), path) for path in found if path.stem == name)

    def take(self, name: str) -> bool:
        """Try to take the lease on a name; return whether this worker now holds it.

        Raises:
          CannotWrite: the lease cannot be written.
        """
        generations = self._generations(name)
        if generations:
            number, newest = generations[-1]
            try:
                silent = time.time() - newest.stat().st_mtime
            except FileNotFoundError:
                return False  # It was released just now: the work is done.
            if silent < self._seconds and not _is_gone(newest):
                return name in self._held
            number += 1
        else:
            number = 0
        path = self._folder / f"{name}.{number}"
        try:
            with path.open("x") as file:
                json.dump({"host": _host(), "process": os.getpid()}, file)
        except FileExistsError:
            return False
        except OSError as error:
            # Other workers would wait for the empty file.
            path.unlink(missing_ok=True)
            raise self._cannot_write(error) from error
        with self._lock:
            self._held[name] = path
        return True

    def holds(self, name: str) -> bool:
        """Return whether this worker still holds the lease; a worker that was suspended may have lost it."""
        generations = self._generations(name)
        return name in self._held and bool(generations) and generations[-1][1] == self._held[name]

    def release(self, name: str) -> None:
        """Give a lease back, because its work is done or another worker shall do it."""
        with self._lock:
            held = self._held.pop(name, None)
        if held is None:
            return
        # The oldest first: while the newest exists, no other worker can create one.
        for _, path in self._generations(name):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give all leases back."""
        self._stop.set()
        self._thread.join()
        for name in list(self._held):
            self.release(name)


def _host() -> str:
    """Return a name for this host and process namespace; containers may share the name of a machine."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _is_gone(lease: Path) -> bool:
    """Return whether the worker of a lease was a process of this host that has ended."""
    try:
        values = json.loads(lease.read_text())
        if values["host"] != _host():
            return False
        os.kill(int(values["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return False  # It is being written, or of another user: the time decides.
    return False
