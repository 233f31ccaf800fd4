"""Worker processes of the loader, and the memory into which they put images.

Grain's own worker processes import JAX, and the main program of the user again, before the first image is made. These
import neither; and their images are copied once, into the batch.
"""

import contextlib
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO, Any, BinaryIO

import numpy as np

from flax_augtl.data.errors import DataError
from flax_augtl.data.images.transforms import Path
from flax_augtl.data.loading.maker import make
from flax_augtl.data.types import Source

_START = "from flax_augtl.data.loading.workers import work; work()"


class Workers:
    """Processes that make images, some at a time.

    Any thread may ask them; as many are served at once as there are processes. The processes end with `close`, or as
    soon as this process does, however it ends.

    Args:
        count: number of processes.
        source, path: of the images.
        slots: how many pieces of work may be unreleased at any time; `make` waits when all are.
        rows: most images of a piece.

    Raises:
        DataError: the source cannot be sent to another process.
    """

    def __init__(self, count: int, source: Source, path: Path, slots: int, rows: int):
        import cloudpickle  # pickle alone does not know what a notebook defines, nor a path's functions.

        try:
            self._setting = cloudpickle.dumps((source, path))
        except Exception as error:  # Whatever the source's own objects raise.
            raise DataError(
                f"The source of the images cannot be sent to worker processes ({error}). Set config.data.workers=0."
            ) from error
        shape = (slots, rows, path.size, path.size, 3)
        self._file = _memory(int(np.prod(shape)))
        self._images = _mapped(self._file, shape)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(slots):
            self._free.put(slot)
        self._idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
        self._fresh: set[int] = set()  # Those that have not been told the setting.
        self._processes: list[subprocess.Popen] = []
        self._shape, self._lock = shape, threading.Lock()
        # sys.path as it is here; -P, as what lies in the working directory must not take a module's place.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
                pass_fds=[self._file.fileno()],
            )  # fmt: skip
            self._processes.append(process)
            self._fresh.add(process.pid)
            self._idle.put(process)

    def make(self, indices: np.ndarray, draw_ids: np.ndarray, views: np.ndarray) -> tuple[int, np.ndarray]:
        """Have images made; see `maker.make`.

        Returns:
            (slot, uint8 [m, size, size, 3]): the images may be read until `release(slot)`.

        Raises:
            Exception: what went wrong in the worker, as it was raised there; DataError if the worker is gone.
        """
        slot, process = self._free.get(), self._idle.get()
        try:
            with self._lock:
                fresh = process.pid in self._fresh
                self._fresh.discard(process.pid)
            to_worker, from_worker = _pipes(process)
            if fresh:
                _send(to_worker, (self._setting, self._file.fileno(), self._shape))
            _send(to_worker, (slot, indices, draw_ids, views))
            error = pickle.load(from_worker)  # noqa: S301 From our own process.
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            error = DataError(
                f"A worker process that reads images has ended (exit code {process.wait()}). If it ran out of "
                "memory, lower config.data.workers; its output above may say more."
            )
        finally:
            self._idle.put(process)
        if error is not None:
            self.release(slot)
            raise error
        return slot, self._images[slot, : len(indices)]

    def release(self, slot: int) -> None:
        """Say that the images of a slot are no longer needed."""
        self._free.put(slot)

    def close(self) -> None:
        """End the processes; whoever waits for one of them gets an error."""
        for process in self._processes:
            process.kill()  # They hold nothing that must be put in order.
        for process in self._processes:
            process.wait()
            to_worker, from_worker = _pipes(process)
            from_worker.close()
            with contextlib.suppress(OSError):  # What it had not read yet.
                to_worker.close()
        self._file.close()


def work() -> None:
    """What a worker process runs: make images until its standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Control-C is for the main process, which ends this one.
    read, write = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What anything here prints must not get between the answers.
    try:
        setting, descriptor, shape = pickle.load(read)  # noqa: S301 From the process that started this one.
        images = _mapped(open(descriptor, "r+b", closefd=False), shape)
        loaded: tuple[Source, Path] | Exception
        try:
            loaded = pickle.loads(setting)  # noqa: S301
        except Exception as error:
            loaded = error
        while True:
            slot, indices, draw_ids, views = pickle.load(read)  # noqa: S301
            try:
                if isinstance(loaded, Exception):
                    raise loaded
                make(images[slot, : len(indices)], *loaded, indices, draw_ids, views)
                answer = None
            except Exception as error:
                answer = error
            _send(write, answer)
    except (EOFError, BrokenPipeError):
        pass  # The main process is gone or wants no more.


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """Return the standard input and output of a process that was started with pipes for both."""
    assert process.stdin is not None and process.stdout is not None
    return process.stdin, process.stdout


def _send(stream: IO[bytes], message: Any) -> None:
    try:
        content = pickle.dumps(message)
    except Exception:  # An exception with something in it that cannot be sent.
        content = pickle.dumps(RuntimeError(f"{type(message).__name__}: {message}"))
    stream.write(content)
    stream.flush()


def _memory(size: int) -> BinaryIO:
    """An open file of so many bytes without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        file = os.fdopen(os.memfd_create("images"), "r+b")
    else:
        file = tempfile.TemporaryFile()
    file.truncate(size)
    return file


def _mapped(file: BinaryIO, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(mmap.mmap(file.fileno(), int(np.prod(shape))), np.uint8).reshape(shape)
