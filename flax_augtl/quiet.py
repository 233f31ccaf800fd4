"""Messages of libraries about what is usual here."""

import contextlib
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
