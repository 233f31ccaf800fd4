"""Make the next item in a thread while the present one is used."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def one_ahead(make: Callable[[_Item], _Made], items: Iterable[_Item]) -> Generator[_Made, None, None]:
    """Yield what `make` makes of each item; a thread makes the next one meanwhile."""
    with ThreadPoolExecutor(1) as ahead:
        coming = None
        for item in items:
            following = ahead.submit(make, item)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()
