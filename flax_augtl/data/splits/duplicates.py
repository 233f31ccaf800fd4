"""Find equal images in two splits, or with two labels in one split."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.splits.integrity import Scan
from flax_augtl.data.types import Examples

# Largest difference between the mean colours of an image and of its copy in another format. One of the two may have
# been decoded at a smaller size, where a cell of the grid can be a pixel wider.
_LOOKS_ALIKE = 6


class Copy(NamedTuple):
    """Positions of a training and a test example with the same image; `same` is "bytes" or "pixels"."""

    train: int
    test: int
    same: str


def copies(train: Examples, test: Examples, seen: tuple[Scan, Scan]) -> list[Copy]:
    """Return all pairs with the same bytes or the same decoded pixels; `seen` are the scans of the two sources."""
    ours, theirs = seen
    by_bytes = _equal(_rows(ours.digests[train.indices]), _rows(theirs.digests[test.indices]))
    found = [Copy(i, j, "bytes") for i, j in by_bytes]
    candidates = _alike(train.indices, test.indices, seen) - set(by_bytes)
    pixels: tuple[dict[int, bytes], dict[int, bytes]] = {}, {}
    for i, j in sorted(candidates):
        one, other = _pixels(train, i, pixels[0]), _pixels(test, j, pixels[1])
        if one == other:
            found.append(Copy(i, j, "pixels"))
    return sorted(found)


def copies_by(train: Examples, test: Examples, content: Callable[[Examples, int], bytes]) -> list[Copy]:
    """Return all pairs with the same content, which `content` gets from (examples, position)."""
    digests = [[hashlib.blake2b(content(part, i), digest_size=16).digest() for i in range(len(part))]
               for part in (train, test)]  # fmt: skip
    return [Copy(i, j, "bytes") for i, j in _equal(*digests)]


def conflicts(part: Examples, digests: Sequence[bytes], alike: Iterable[tuple[int, int]] = ()) -> list[Copy]:
    """Return pairs of examples with the same image and different labels; each such image is in at least one pair.

    Args:
      part: the examples.
      digests: one for each example, equal for equal bytes.
      alike: pairs of positions, which include all pairs with the same pixels.
    """
    groups: dict[bytes, list[int]] = {}
    for i, digest in enumerate(digests):
        groups.setdefault(digest, []).append(i)
    labels, found, known = part.labels.tolist(), {}, {}
    for group in groups.values():
        if len({labels[i] for i in group}) > 1:
            for i in group:  # Not all pairs, because an image may have very many copies.
                other = next(j for j in group if labels[j] != labels[i])
                found[min(i, other), max(i, other)] = "bytes"
    for i, j in sorted(alike):
        unequal = labels[i] != labels[j] and digests[i] != digests[j]
        if unequal and _pixels(part, i, known) == _pixels(part, j, known):
            found[i, j] = "pixels"
    return sorted(Copy(i, j, same) for (i, j), same in found.items())


def alike_within(part: Examples, some: np.ndarray, seen: Scan) -> set[tuple[int, int]]:
    """Return the pairs among some positions, int [k], that may have the same pixels."""
    pairs = _alike(part.indices[some], part.indices[some], (seen, seen))
    return {(int(some[i]), int(some[j])) for i, j in pairs if i < j}


def settle(
    train: Examples, test: Examples, found: list[Copy], on_leak: str, what: str = "training"
) -> tuple[Examples, str]:
    """Handle copies as config.data.on_leak says. The test split never changes, because others report results on it.

    Args:
      train: the examples that may be dropped.
      test: the test examples.
      found: the copies.
      on_leak: "error", "drop" or "warn".
      what: what messages call the examples that may be dropped.

    Returns:
      (`train`, without the copies if they are dropped; a note, "" if there are none).

    Raises:
      DataError: there are copies, and `on_leak` is "error".
    """
    if not found:
        return train, ""
    named = listed((f"{train.ids[c.train]} = {test.ids[c.test]} ({c.same})" for c in found), 5)
    leaked = sorted({copy.train for copy in found})
    tested = len({copy.test for copy in found})
    count = f"{tested} of {len(test)} test images are in the {what} data too: {named}."
    if on_leak == "error":
        raise DataError(f"{count} Remove them, or set config.data.on_leak to drop (from {what}) or warn.")
    if on_leak == "warn":
        return (
            train,
            f"{count} Test accuracies are too high because of that; config.data.on_leak=drop takes them out of {what}.",
        )
    kept = np.setdiff1d(np.arange(len(train)), leaked)
    return train.take(kept), f"{count} The {len(leaked)} {what} images were dropped."


def _rows(digests: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in digests]


def _equal(left: list[bytes], right: list[bytes]) -> list[tuple[int, int]]:
    where: dict[bytes, list[int]] = {}
    for i, digest in enumerate(left):
        where.setdefault(digest, []).append(i)
    return [(i, j) for j, digest in enumerate(right) for i in where.get(digest, ())]


def _alike(train: np.ndarray, test: np.ndarray, seen: tuple[Scan, Scan]) -> set[tuple[int, int]]:
    """Return the pairs of one size and nearly the same colours, which include all with the same pixels."""
    by_size: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    for side, indices in enumerate((train, test)):
        for position, size in enumerate(seen[side].sizes[indices].tolist()):
            by_size.setdefault(tuple(size), ([], []))[side].append(position)
    pairs = set()
    for ours, theirs in by_size.values():
        if ours and theirs:
            pairs |= {(ours[i], theirs[j]) for i, j in _near(seen[0].looks[train[ours]], seen[1].looks[test[theirs]])}
    return pairs


def _near(ours: np.ndarray, theirs: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of rows, uint8 [m, c] and [n, c], that differ by at most `_LOOKS_ALIKE` everywhere."""
    ours, theirs = ours.astype(np.int16), theirs.astype(np.int16)
    brightness = ours.sum(1)
    order = np.argsort(brightness)
    # Similar rows have similar brightness, so each row is compared with a slice of the others only.
    window = _LOOKS_ALIKE * ours.shape[1]
    sums = theirs.sum(1)
    first = np.searchsorted(brightness[order], sums - window)
    last = np.searchsorted(brightness[order], sums + window, "right")
    found = []
    for j, row in enumerate(theirs):
        some = order[first[j] : last[j]]
        found += [(int(i), j) for i in some[(np.abs(ours[some] - row) <= _LOOKS_ALIKE).all(1)]]
    return found


def _pixels(examples: Examples, position: int, known: dict[int, bytes]) -> bytes:
    index = int(examples.indices[position])
    if index not in known:
        known[index] = hashlib.blake2b(examples.source[index].tobytes(), digest_size=16).digest()
    return known[index]
