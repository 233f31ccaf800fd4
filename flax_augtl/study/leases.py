"""Who works on what: claims on a shared POSIX file system, which lapse when their worker falls silent."""

import glob
import json
import os
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from flax_augtl.workdir.files import CannotWrite


class Leases:
    """Claims of one worker.

    Generation g of a claim on a name is the file NAME.g, made atomically by whoever is first. The highest generation
    holds. Its worker touches it while it lives; a claim that was not touched for `lease` seconds is taken over by
    making the next generation, which again only one worker can. Clocks of several machines matter only against the
    lease.
    """

    def __init__(self, folder: Path, lease: float):
        """Begin to keep claims alive.

        Args:
          folder: where the claims are; shared by all workers.
          lease: seconds after which a silent worker's claims lapse.

        Raises:
          CannotWrite: the folder cannot be made.
        """
        self._folder, self._lease = folder, lease
        self._held: dict[str, Path] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._thread = threading.Thread(target=self._touch, daemon=True, name="claims")
        self._thread.start()

    def _cannot_write(self, error: OSError) -> CannotWrite:
        return CannotWrite(f"Claims in {self._folder} cannot be written: {error.strerror or error}.")

    def _touch(self) -> None:
        while not self._stop.wait(self._lease / 5):
            with self._lock:
                for path in self._held.values():
                    try:
                        os.utime(path)
                    except OSError:
                        continue  # The next touch, or the takeover by another worker, will tell.

    def _generations(self, name: str) -> list[tuple[int, Path]]:
        found = [path for path in self._folder.glob(f"{glob.escape(name)}.*") if path.suffix[1:].isdecimal()]
        return sorted((int(path.suffix[1:]), path) for path in found if path.stem == name)

    def take(self, name: str) -> bool:
        """Claim a name; return whether this worker now holds it.

        Raises:
          CannotWrite: no claim can be written.
        """
        generations = self._generations(name)
        if generations:
            number, newest = generations[-1]
            try:
                silent = time.time() - newest.stat().st_mtime
            except FileNotFoundError:
                return False  # Released just now: its work is done.
            if silent < self._lease and not _is_gone(newest):
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
            # What there is of it, empty, would be waited for.
            path.unlink(missing_ok=True)
            raise self._cannot_write(error) from error
        with self._lock:
            self._held[name] = path
        return True

    def take_all(self, names: Iterable[str]) -> list[str]:
        """Claim several names; return those that this worker now holds."""
        return [name for name in names if self.take(name)]

    def holds(self, name: str) -> bool:
        """Return whether the claim is still this worker's: a worker that was asleep may have lost it."""
        generations = self._generations(name)
        return name in self._held and bool(generations) and generations[-1][1] == self._held[name]

    def release(self, name: str) -> None:
        """Give a claim back: its work is done, or is to be done by another worker."""
        with self._lock:
            held = self._held.pop(name, None)
        if held is None:
            return
        # From the oldest on: while the newest stands, nobody can make a generation anew.
        for _, path in self._generations(name):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give all claims back."""
        self._stop.set()
        self._thread.join()
        for name in list(self._held):
            self.release(name)


def _host() -> str:
    """Return a name for where process numbers have one meaning: containers may share a machine's name."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _is_gone(claim: Path) -> bool:
    """Return whether a claim's worker was a process of this host that has ended: its lease need not be waited for."""
    try:
        values = json.loads(claim.read_text())
        if values["host"] != _host():
            return False
        os.kill(int(values["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return False  # Being written just now, or of another user: the lease decides.
    return False
