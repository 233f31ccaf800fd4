"""Run worker processes of the loader, which write images into shared memory.

Grain's own worker processes import JAX and the user's main program before they make the first image. These import
neither, and their images are copied only once, into the batch.
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
    """Processes that make batches of images.

    Several threads may use them; each process serves one thread at a time. The processes end with `close`, or when this
    process ends in any way.
    """

    def __init__(self, count: int, source: Source, path: Path, slots: int, rows: int):
        """Start the processes.

        Args:
          count: number of processes.
          source: the source of the images.
          path: the transform.
          slots: number of results that may be unreleased at the same time; `make` waits if all are in use.
          rows: largest number of images of a result.

        Raises:
          DataError: the source cannot be sent to another process.
        """
        import cloudpickle  # pickle cannot send what a notebook defines, nor the functions of a path.

        try:
            self._setting = cloudpickle.dumps((source, path))
        except Exception as error:  # The objects of a source may raise anything.
            raise DataError(
                f"The source of the images cannot be sent to worker processes ({error}). Set config.data.workers=0."
            ) from error
        shape = (slots, rows, *path.shape)
        self._file = _memory(int(np.prod(shape)))
        self._images = _mapped(self._file, shape)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(slots):
            self._free.put(slot)
        self._idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
        self._fresh: set[int] = set()  # Processes that have not received the setting yet.
        self._processes: list[subprocess.Popen] = []
        self._shape, self._lock = shape, threading.Lock()
        # The workers get this sys.path. -P keeps modules in the working directory from hiding others.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
                pass_fds=[self._file.fileno()],
            )  # fmt: skip
            self._processes.append(process)
            self._fresh.add(process.pid)
            self._idle.put(process)

    def make(
        self, indices: np.ndarray, draw_ids: np.ndarray, views: np.ndarray
    ) -> tuple[int, np.ndarray, dict[int, str]]:
        """Let a worker make images; see `maker.make`.

        Returns:
          (slot, uint8 [m, *path.shape], what `maker.make` returns): the images are valid until `release(slot)`.

        Raises:
          Exception: the error that was raised in the worker; a DataError if the worker has ended.
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
            answer = pickle.load(from_worker)  # noqa: S301 From our own process.
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            answer = DataError(
                f"A worker process that reads images has ended (exit code {process.wait()}). If it ran out of "
                "memory, lower config.data.workers; its output above may say more."
            )
        finally:
            self._idle.put(process)
        if isinstance(answer, Exception):
            self.release(slot)
            raise answer
        return slot, self._images[slot, : len(indices)], answer

    def release(self, slot: int) -> None:
        """Free a slot whose images are no longer needed."""
        self._free.put(slot)

    def close(self) -> None:
        """End the processes; threads that wait for one of them get an error."""
        for process in self._processes:
            process.kill()  # They have nothing to clean up.
        for process in self._processes:
            process.wait()
            to_worker, from_worker = _pipes(process)
            from_worker.close()
            with contextlib.suppress(OSError):  # Data that the process has not read.
                to_worker.close()
        self._file.close()


def work() -> None:
    """Make images until standard input ends; the main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Control-C ends the main process, which ends this one.
    read, write = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Keeps what libraries print out of the answers.
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
                answer = make(images[slot, : len(indices)], *loaded, indices, draw_ids, views)
            except Exception as error:
                answer = error
            _send(write, answer)
    except (EOFError, BrokenPipeError):
        pass  # The main process has ended or needs no more images.


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """Return the standard input and output of a process that was started with pipes for both."""
    assert process.stdin is not None and process.stdout is not None
    return process.stdin, process.stdout


def _send(stream: IO[bytes], message: Any) -> None:
    try:
        content = pickle.dumps(message)
    except Exception:  # The message is an exception that cannot be pickled.
        content = pickle.dumps(RuntimeError(f"{type(message).__name__}: {message}"))
    stream.write(content)
    stream.flush()


def _memory(size: int) -> BinaryIO:
    """Open a file of `size` bytes without a name, in memory if the system supports that."""
    if hasattr(os, "memfd_create"):
        file = os.fdopen(os.memfd_create("images"), "r+b")
    else:
        file = tempfile.TemporaryFile()
    file.truncate(size)
    return file


def _mapped(file: BinaryIO, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(mmap.mmap(file.fileno(), int(np.prod(shape))), np.uint8).reshape(shape)
