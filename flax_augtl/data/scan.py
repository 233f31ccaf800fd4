"""Look at every picture once, before the splits are made, so that a bad one changes no step count later."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from flax_augtl.data.errors import DataError, UnreadablePicture, listed
from flax_augtl.data.files import FileSource


def scan(source: FileSource, on_bad_image: str) -> dict[int, str]:
    """Decode every picture.

    Args:
        source: the picture files.
        on_bad_image: "error" or "skip".

    Returns:
        {position in the source: why it cannot be read}; empty unless `on_bad_image` is "skip".

    Raises:
        DataError: the setting is unknown.
        UnreadablePicture: a picture cannot be read and `on_bad_image` is "error"; names up to ten of them.
    """
    if on_bad_image not in ("error", "skip"):
        raise DataError(f'config.data.on_bad_image="{on_bad_image}" is unknown; choose error or skip.')
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = list(
            tqdm(
                pool.map(lambda i: _reason(source, i), range(len(source))),
                total=len(source),
                desc="Scanning pictures",
                unit="",
                leave=False,
                delay=2,
            )
        )
    bad = {i: reason for i, reason in enumerate(reasons) if reason}
    if bad and on_bad_image == "error":
        raise _error(source, bad)
    return bad


def note(source: FileSource, bad: dict[int, str]) -> str:
    """A sentence that counts the bad pictures and lists the first ten."""
    named = listed(f"{source.paths[i]} ({reason})" for i, reason in bad.items())
    return f"{len(bad)} of {len(source)} pictures cannot be read and are left out: {named}."


def _reason(source: FileSource, index: int) -> str | None:
    try:
        source.read(
            index, at_least=(1, 1)
        )  # A JPEG at an eighth of its size: every byte is read, few are computed with.
    except UnreadablePicture as error:
        return error.reason
    return None


def _error(source: FileSource, bad: dict[int, str]) -> DataError:
    first = next(iter(bad))
    error = UnreadablePicture(source.path(first), bad[first])
    if len(bad) == 1:
        return error
    others: Sequence[int] = list(bad)[1:]
    return DataError(f"{error} There are {len(others)} more: {listed((source.paths[i] for i in others), 9)}.")
