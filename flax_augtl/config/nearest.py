"""The names nearest to one that does not exist, for messages."""

import difflib
from collections.abc import Callable, Iterable


def nearest(name: object, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the known names nearest to `name`, best first; none if none is near."""
    return difflib.get_close_matches(str(name), list(known), most, cutoff)


def did_you_mean(
    name: object,
    known: Iterable[str],
    *,
    most: int = 1,
    cutoff: float = 0.6,
    show: Callable[[str], str] = str,
) -> str:
    """Return a sentence after a space with the known names nearest to `name`; "" if none is near.

    Args:
      name: the name that does not exist.
      known: those that do.
      most: how many names to give at most.
      cutoff: how similar a name must be, in [0, 1].
      show: how a name is written.
    """
    near = nearest(name, known, most=most, cutoff=cutoff)
    return f" Did you mean {' or '.join(map(show, near))}?" if near else ""
