"""Signals that end a program: SIGTERM, as a preemption sends it, and SIGINT, Ctrl-C.

Training ends after the running step and writes a checkpoint; whatever else is going on ends at once. Only a program
asks for this (`handled`), from its main thread: the Python API leaves signals as they are.
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
      exit_code: 128 + the number of the signal, as shells have it: 130 after SIGINT, 143 after SIGTERM.
      agreed: whether the other processes, if there are any, end at the same step.
    """

    def __init__(self, number: int, agreed: bool = False):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number
        self.agreed = agreed


class _State:
    """Of this process, as signal handlers are."""

    received: int | None = None
    deferring = False
    asked = 0


@contextlib.contextmanager
def handled(training: bool = True) -> Iterator[None]:
    """Handle SIGINT and SIGTERM within a with statement, in the main thread: see `requested`. A second SIGINT exits.

    Args:
      training: what is done asks `requested`; else a signal ends it at once, whatever other processes do.
    """
    _State.received, _State.deferring = None, False
    # Where several processes train together JAX's own service takes SIGTERM, and agrees on a step with the others.
    signals = (signal.SIGINT,) if training and jax.distributed.is_initialized() else SIGNALS
    before = {number: signal.signal(number, _receive) for number in signals}
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    # Python runs handlers between two of its own instructions, and a compilation is one of them. The thread is told at
    # once.
    watcher = threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            # Of a handler that JAX's service has set Python knows nothing.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        writing.close()
        watcher.join()
        reading.close()
        _State.received, _State.deferring = None, False


def request() -> None:
    """End the run after its running step, as a SIGTERM does; from any thread."""
    os.kill(os.getpid(), signal.SIGTERM)


def defer() -> None:
    """From now on a signal does not end what is running: there are steps to be saved, and `requested` is asked."""
    _State.deferring = True


def defer_no_more() -> None:
    """From now on a signal ends what is running."""
    _State.deferring = False


def requested() -> bool:
    """Tell whether the run shall end after the running step, the same on every process; to be asked after every step."""
    if jax.distributed.is_initialized():
        # A number that only rises: the steps of a second run, or of one that goes back, were synchronised before.
        _State.asked += 1
        return bool(multihost_utils.reached_preemption_sync_point(_State.asked))
    return _State.received is not None


def raise_if_alone() -> None:
    """Raise Interrupted if the program shall end and no other process takes part in what is running."""
    if _State.received is not None and not jax.distributed.is_initialized():
        raise interrupted()


def interrupted() -> Interrupted:
    """Return the exception of the signal that was received; on other processes than the one that did, of SIGTERM."""
    return Interrupted(_State.received or signal.SIGTERM, agreed=True)


def _receive(number: int, frame: object) -> None:
    if _State.received is None:
        _State.received = number
        if not _State.deferring:
            raise Interrupted(number)
        if jax.distributed.is_initialized():
            request()  # The other processes must know.


def _watch(reading: socket.socket) -> None:
    """Say what happens after the first signal, and exit at a second SIGINT."""
    times = 0
    while received := reading.recv(1):
        if received[0] not in SIGNALS:
            continue
        times += received[0] == signal.SIGINT
        if times > 1:
            # Loader workers end by themselves when this process does.
            os._exit(128 + signal.SIGINT)
        said = f"\n{signal.Signals(received[0]).name}: stopping; a training writes a checkpoint first."
        os.write(2, (said + (" Ctrl-C again stops at once.\n" if times else "\n")).encode())
