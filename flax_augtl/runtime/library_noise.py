"""Silence known-harmless warnings of Orbax and TensorStore."""

import contextlib
import sys
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Silence Orbax's warnings about read-only directories within a with statement; errors are still logged."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)


def hook(unraisable: "sys.UnraisableHookArgs") -> None:
    """Do what `sys.unraisablehook` does, except for one harmless error.

    After an array could not be written, TensorStore reports for every other array that Orbax no longer waits for it.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
