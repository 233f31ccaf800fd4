"""Show how far a pass over images is, and how long the rest takes: a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from flax_augtl.runtime import distributed
from flax_augtl.runtime.text import duration, shows_bars

_Item = TypeVar("_Item")
_EVERY = 10.0  # Seconds between two lines.


def shown(
    batches: Iterable[_Item], what: str, total: int, size: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[_Item]:
    """Yield some batches, and report progress on stderr.

    Args:
      batches: of images.
      what: is being done, such as "features of the source weights".
      total: number of images.
      size: images per batch; the last one may have fewer.
      clock: returns the time in seconds.
    """
    if not distributed.is_first():
        yield from batches
        return
    if shows_bars():
        with tqdm(total=total, desc=what, unit=" images", leave=False, delay=1) as bar:
            for batch in batches:
                yield batch
                bar.update(min(size, total - bar.n))
        return
    started = told = clock()
    for number, batch in enumerate(batches, 1):
        yield batch
        now, done = clock(), min(number * size, total)
        if now - told >= _EVERY:
            told = now
            speed = done / (now - started)
            print(
                f"  {what}: {done}/{total} images, {speed:.0f} a second, {duration((total - done) / speed)} left",
                file=sys.stderr,
                flush=True,
            )
