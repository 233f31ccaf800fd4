"""A trace of a few steps of training, for TensorBoard's profiler or xprof."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from etils import epath

from flax_augtl.runtime.text import first_line

# If the run is long enough, skip compilation and the first steps, which fill the loader's buffers.
WARM_UP = 10
STEPS = 5


class Profile:
    """A trace of steps 11 to 15 since the start of the program, or of the last steps of a shorter run."""

    def __init__(self, directory: epath.PathLike | None, step: int, total: int, say: Callable[[str], Any] = print):
        """Prepare a trace.

        Args:
          directory: where to write it; None for no trace.
          step: number of steps done before.
          total: number of steps of the whole run.
          say: called with a warning if the trace cannot be written; training continues.
        """
        self._say = say
        left = total - step
        self._directory = directory
        self._first = min(WARM_UP, max(left - STEPS, 0))
        self._last = min(self._first + STEPS, left) - 1

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches, one a step."""
        if self._directory is None:
            yield from batches
            return
        tracing = False
        try:
            for index, batch in enumerate(batches):
                if index == self._first:
                    jax.profiler.start_trace(self._directory)
                    tracing = True
                with jax.profiler.StepTraceAnnotation("train", step_num=index):
                    yield batch
                if index == self._last:
                    tracing = False
                    self._stop()
        finally:
            if tracing:
                self._stop()

    def _stop(self) -> None:
        try:
            jax.profiler.stop_trace()
        except jax.errors.JaxRuntimeError as error:
            self._say(f"The trace in {self._directory} cannot be written: {first_line(error).rstrip('.')}.")
