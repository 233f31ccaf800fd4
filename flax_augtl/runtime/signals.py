"""Signals that end the program: SIGTERM, which a preemption sends, and SIGINT (Ctrl-C).

Training ends after the running step and writes a checkpoint; everything else ends at once. The program installs the
handlers (`handled`) from its main thread; the Python API does not change signal handling.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal ends the program.

    Attributes:
      exit_code: 128 + the number of the signal, as in shells: 130 after SIGINT, 143 after SIGTERM.
      agreed: whether the other processes, if any, end at the same step.
    """

    def __init__(self, number: int, agreed: bool = False):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number
        self.agreed = agreed


class _State:
    """State of this process, like signal handlers."""

    received: int | None = None
    deferring = False
    asked = 0


@contextlib.contextmanager
def handled(training: bool = True) -> Iterator[None]:
    """Handle SIGINT and SIGTERM within a with statement in the main thread. A second SIGINT exits at once.

    Args:
      training: whether the code asks `requested`; otherwise a signal ends it at once, whatever other processes do.
    """
    _State.received, _State.deferring = None, False
    # If several processes train together, JAX's service handles SIGTERM, and agrees on a step with the others.
    signals = (signal.SIGINT,) if training and jax.distributed.is_initialized() else SIGNALS
    before = {number: signal.signal(number, _receive) for number in signals}
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    # Python calls handlers between two of its instructions, so after a compilation; the thread is told at once.
    watcher = threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            # Python does not know the handler that JAX's service has set.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        writing.close()
        watcher.join()
        reading.close()
        _State.received, _State.deferring = None, False


def request() -> None:
    """End the run after its running step, like SIGTERM; any thread may call this."""
    os.kill(os.getpid(), signal.SIGTERM)


def defer() -> None:
    """Do not end the running code at a signal from now on: it has steps to save, and asks `requested`."""
    _State.deferring = True


def defer_no_more() -> None:
    """End the running code at a signal from now on."""
    _State.deferring = False


def requested() -> bool:
    """Return whether the run must end after the running step, the same in every process; call it after every step."""
    if jax.distributed.is_initialized():
        # JAX needs a number that only rises; steps repeat in a second run, or in one that goes back.
        _State.asked += 1
        return bool(multihost_utils.reached_preemption_sync_point(_State.asked))
    return _State.received is not None


def raise_if_alone() -> None:
    """Raise Interrupted if the program must end and no other process takes part in the run."""
    if _State.received is not None and not jax.distributed.is_initialized():
        raise interrupted()


def interrupted() -> Interrupted:
    """Return the exception for the received signal; in processes that received none, for SIGTERM."""
    return Interrupted(_State.received or signal.SIGTERM, agreed=True)


def _receive(number: int, frame: object) -> None:
    if _State.received is None:
        _State.received = number
        if not _State.deferring:
            raise Interrupted(number)
        if jax.distributed.is_initialized():
            request()  # The other processes must know.


def _watch(reading: socket.socket) -> None:
    """Print a line after the first signal, and exit at a second SIGINT."""
    times = 0
    while received := reading.recv(1):
        if received[0] not in SIGNALS:
            continue
        times += received[0] == signal.SIGINT
        if times > 1:
            # The loader's workers end with this process.
            os._exit(128 + signal.SIGINT)
        said = f"\n{signal.Signals(received[0]).name}: stopping; a training writes a checkpoint first."
        os.write(2, (said + (" Ctrl-C again stops at once.\n" if times else "\n")).encode())
