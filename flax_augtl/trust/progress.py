"""Show how far a pass over images is, and how long the rest takes: a bar on a terminal, else a line now and then."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from flax_augtl.runtime import distributed
from flax_augtl.runtime.text import duration, shows_bars

_Item = TypeVar("_Item")
_EVERY = 10.0  # Seconds between two lines.


class Counter:
    """Reports how many images of a pass are done: a bar on a terminal, else a line now and then."""

    def __init__(self, what: str, total: int, *, done: int = 0, clock: Callable[[], float] = time.monotonic):
        """Start the clock.

        Args:
          what: is being done, such as "features of the source weights".
          total: number of images.
          done: images that were done before, which do not count for the speed.
          clock: returns the time in seconds.
        """
        self._what, self._total, self._before, self._done, self._clock = what, total, done, done, clock
        self._started = self._told = clock()
        self._silent = not distributed.is_first()
        self._bar = None
        if not self._silent and shows_bars():
            self._bar = tqdm(total=total, initial=done, desc=what, unit=" images", leave=False, delay=1)

    def add(self, count: int) -> None:
        """Count more images; blanks beyond the total do not count."""
        count = min(count, self._total - self._done)
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = self._clock()
        if self._silent or now - self._told < _EVERY:
            return
        self._told = now
        speed = max(self._done - self._before, 1e-9) / (now - self._started)
        print(
            f"  {self._what}: {self._done}/{self._total} images, {speed:.0f} a second, "
            f"{duration((self._total - self._done) / speed)} left",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()


def shown(
    batches: Iterable[_Item], what: str, total: int, size: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[_Item]:
    """Yield some batches, and report progress on stderr.

    Args:
      batches: of images.
      what: see `Counter`.
      total: number of images.
      size: images per batch; the last one may have fewer.
      clock: returns the time in seconds.
    """
    with contextlib.closing(Counter(what, total, clock=clock)) as counter:
        for batch in batches:
            yield batch
            counter.add(size)
