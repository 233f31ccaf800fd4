"""Messages of libraries about what is usual here."""

import contextlib
import sys
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Have Orbax not warn within a with statement, as it does of whatever is opened for reading only; errors pass."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)


def hook(unraisable: "sys.UnraisableHookArgs") -> None:
    """Do what `sys.unraisablehook` does, but for one thing.

    TensorStore prints, once for every array, that Orbax no longer waits for it, after the first that could not be
    written.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
