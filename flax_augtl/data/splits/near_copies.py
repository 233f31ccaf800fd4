"""Find exact copies and near-copies of images, and handle them as config.data says before the splits are final."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.splits import duplicates, image_hash
from flax_augtl.data.splits.integrity import Scan, load_arrays, save_arrays, scan_folder
from flax_augtl.data.types import Examples, NearCopy, Source

MAX_LISTED = 100_000  # Largest number of near-copies in the run directory.
_REMEMBER_FROM = 10_000  # For fewer images, searching is faster than a file.


class Near(NamedTuple):
    """Near-copies between two groups of examples, nearest first.

    Attributes:
      left: int64 [k], positions in the first group.
      right: int64 [k], positions in the second group.
      distance: int64 [k], see `image_hash.Pairs`.
      mirrored: bool [k], see `image_hash.Pairs`.
      limit: the largest distance that was searched for.
    """

    left: np.ndarray
    right: np.ndarray
    distance: np.ndarray
    mirrored: np.ndarray
    limit: int = image_hash.MAX_DISTANCE

    def take(self, which: np.ndarray) -> "Near":
        """Return some of the pairs; `which` is bool [k] or positions."""
        return Near(self.left[which], self.right[which], self.distance[which], self.mirrored[which], self.limit)


class Finder(Protocol):
    """Finds copies among the examples of one dataset."""

    def exact(self, left: Examples, right: Examples) -> list[duplicates.Copy]:
        """Return the pairs with the same bytes or the same pixels."""
        ...

    def conflicts(self, part: Examples) -> list[duplicates.Copy]:
        """Return the pairs of one group with the same bytes or pixels but different labels."""
        ...

    def near(self, left: Examples, right: Examples) -> Near:
        """Return the pairs that are alike, exact copies included; the two groups may be the same one."""
        ...


class ByContent:
    """Finds equal images by the content of examples; it finds no near-copies."""

    def __init__(self, content: Callable[[Examples, int], bytes]):
        self._content = content

    def exact(self, left: Examples, right: Examples) -> list[duplicates.Copy]:
        """Return the pairs with the same content."""
        return duplicates.copies_by(left, right, self._content)

    def conflicts(self, part: Examples) -> list[duplicates.Copy]:
        """Return the pairs with the same content but different labels."""
        digests = [hashlib.blake2b(self._content(part, i), digest_size=16).digest() for i in range(len(part))]
        return duplicates.conflicts(part, digests)

    def near(self, left: Examples, right: Examples) -> Near:
        """Return no pairs."""
        nothing = np.zeros(0, np.int64)
        return Near(nothing, nothing, nothing, nothing.astype(bool))


class ByScan:
    """Finds copies among images that were scanned."""

    def __init__(self, seen: Mapping[Source, Scan], remember_in: str | Path | None = ""):
        """Take the results of the scan.

        Args:
          seen: the scan of each source.
          remember_in: config.data.scan_dir.
        """
        self._seen = seen
        self._folder = scan_folder(remember_in)
        # The images of all sources are numbered consecutively.
        starts = np.cumsum([0, *(len(scan.digests) for scan in seen.values())])
        self._start, self._total = dict(zip(seen, starts.tolist(), strict=False)), int(starts[-1])
        self._pairs: image_hash.Pairs | None = None

    def exact(self, left: Examples, right: Examples) -> list[duplicates.Copy]:
        """Return the pairs with the same bytes or the same pixels."""
        return duplicates.copies(left, right, (self._seen[left.source], self._seen[right.source]))

    def conflicts(self, part: Examples) -> list[duplicates.Copy]:
        """Return the pairs with the same bytes or pixels but different labels."""
        scan, near = self._seen[part.source], self.near(part, part)
        # Images of one colour have no perceptual hash.
        flat = np.flatnonzero(scan.thumbs[part.indices].std(1) < image_hash.MIN_CONTRAST)
        alike = {*zip(near.left.tolist(), near.right.tolist(), strict=True), *duplicates.alike_within(part, flat, scan)}
        return duplicates.conflicts(part, [row.tobytes() for row in scan.digests[part.indices]], alike)

    def near(self, left: Examples, right: Examples) -> Near:
        """Return the pairs that are alike, exact copies included."""
        pairs = self._pairs = self._pairs or self._search()
        ours, theirs = self._positions(left), self._positions(right)
        found = []
        for one, other in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
            both = (ours[one] >= 0) & (theirs[other] >= 0)
            found.append(
                np.stack([ours[one[both]], theirs[other[both]], pairs.distance[both], pairs.mirrored[both]], 1)
            )
            if left is right:
                break
        columns = np.concatenate(found)
        if left is right:
            columns[:, :2] = np.sort(columns[:, :2], 1)
        columns = columns[np.lexsort((columns[:, 1], columns[:, 0], columns[:, 2]))].T
        left_of, right_of, distance, mirrored = columns
        return Near(left_of, right_of, distance, mirrored.astype(bool), pairs.limit)

    def _positions(self, part: Examples) -> np.ndarray:
        """Return int64 [images of all sources]: the position of each image in `part`, or −1."""
        positions = np.full(self._total, -1, np.int64)
        positions[self._start[part.source] + part.indices] = np.arange(len(part))
        return positions

    def _search(self) -> image_hash.Pairs:
        hashes = np.concatenate([scan.hashes for scan in self._seen.values()])
        thumbs = np.concatenate([scan.thumbs for scan in self._seen.values()])
        if self._folder is None or len(hashes) < _REMEMBER_FROM:
            return image_hash.search(hashes, thumbs)
        digest = hashlib.blake2b(hashes.tobytes() + thumbs.tobytes(), digest_size=8).hexdigest()
        memory = self._folder / f"near-{image_hash.VERSION}-{digest}.npz"
        try:
            known = load_arrays(memory)
            return image_hash.Pairs(**{**known, "limit": int(known["limit"])})
        except (KeyError, TypeError, ValueError):
            pairs = image_hash.search(hashes, thumbs)
            save_arrays(memory, **{name: np.asarray(value) for name, value in pairs._asdict().items()})
            return pairs


class Settled(NamedTuple):
    """The parts after copies were handled, notes about them, and the near-copies, nearest first."""

    train: Examples
    val: Examples | None
    notes: tuple[str, ...]
    near: tuple[NearCopy, ...]


def settle(
    train: Examples,
    val: Examples | None,
    test: Examples,
    finder: Finder,
    data: DataConfig,
    class_names: tuple[str, ...],
) -> Settled:
    """Handle all copies as config.data says.

    Copies of test images are dropped from training and validation, never from the test split, because others report
    results on it.

    Args:
      train: the training examples, before they are sampled.
      val: the validation examples; None if they will be taken from the training examples.
      test: the test examples.
      finder: finds the copies.
      data: config.data.
      class_names: for messages.

    Raises:
      DataError: there are copies whose setting is "error".
    """
    on_conflict = data.on_conflict or data.on_leak
    parts, notes, near, exact = {"training": train, "validation": val}, [], [], set()
    for what, part in parts.items():
        if part is not None:
            found = finder.exact(part, test)
            exact |= {(part.ids[copy.train], test.ids[copy.test]) for copy in found}
            parts[what], note = duplicates.settle(part, test, found, data.on_leak, what)
            notes.append(note)
    if on_conflict != "ignore":
        found = finder.conflicts(parts["training"])
        exact |= {(parts["training"].ids[i], parts["training"].ids[j]) for i, j, _ in found}
        parts["training"], note = _settle_conflicts(parts["training"], found, on_conflict, class_names)
        notes.append(note)
    if data.near_copies != "ignore":
        for what, part in parts.items():
            if part is not None:
                found = _without(finder.near(part, test), part, test, exact)
                near += _rows(found, part, test)
                parts[what], note = _settle_near(part, test, found, data.near_copies, what)
                notes.append(note)
        found = finder.near(parts["training"], parts["training"])
        labels = parts["training"].labels
        found = found.take(labels[found.left] != labels[found.right])
        found = _without(found, parts["training"], parts["training"], exact)
        near += _rows(found, parts["training"], parts["training"])
        notes.append(_near_conflicts(parts["training"], found))
    near = sorted(near, key=lambda copy: copy.distance)[:MAX_LISTED]
    return Settled(parts["training"], parts["validation"], tuple(note for note in notes if note), tuple(near))


def _settle_conflicts(
    train: Examples, found: list[duplicates.Copy], on_conflict: str, class_names: tuple[str, ...]
) -> tuple[Examples, str]:
    """Handle equal images with different labels; "drop" drops all of them, because any label may be wrong."""
    if not found:
        return train, ""
    named = listed(
        (f"{train.ids[i]} ({class_names[train.labels[i]]}) = {train.ids[j]} ({class_names[train.labels[j]]}) ({same})"
         for i, j, same in found), 5)  # fmt: skip
    concerned = sorted({position for i, j, _ in found for position in (i, j)})
    count = f"{len(concerned)} training images are equal to another one with a different label: {named}."
    if on_conflict == "error":
        raise DataError(
            f"{count} Correct the labels, or set config.data.on_conflict to drop (all of them), warn or ignore."
        )
    if on_conflict == "drop":
        return train.take(np.setdiff1d(np.arange(len(train)), concerned)), f"{count} All of them were dropped."
    return train, f"{count} Correct the labels; config.data.on_conflict=drop takes all of them out of training."


def _settle_near(part: Examples, test: Examples, found: Near, near_copies: str, what: str) -> tuple[Examples, str]:
    if not len(found.left):
        return part, ""
    leaked = np.unique(found.left)
    named = _named(part, test, found)
    count = (f"Near-copies of {len(np.unique(found.right))} of {len(test)} test images are in the {what} data "
             f"(re-encoded, resized, mirrored or slightly changed): {named}.{_limit(found)}")  # fmt: skip
    if near_copies == "error":
        raise DataError(f"{count} Remove them, or set config.data.near_copies to drop (from {what}), warn or ignore.")
    if near_copies == "drop":
        kept = np.setdiff1d(np.arange(len(part)), leaked)
        return part.take(kept), f"{count} Dropped from {what}: {len(leaked)}."
    return part, (f"{count} Test accuracy may be too high because of them; near_copies.csv lists all pairs, and "
                  f"config.data.near_copies=drop takes them out of {what} ({len(leaked)}).")  # fmt: skip


def _near_conflicts(train: Examples, found: Near) -> str:
    if not len(found.left):
        return ""
    concerned = len(np.unique(np.concatenate([found.left, found.right])))
    return (f"{concerned} training images have a near-copy with a different label: {_named(train, train, found)}."
            f"{_limit(found)} Check the labels; near_copies.csv lists all pairs.")  # fmt: skip


def _named(left: Examples, right: Examples, found: Near) -> str:
    pairs = zip(found.left[:6].tolist(), found.right[:6].tolist(), found.distance[:6].tolist(), strict=True)
    named = [f"{left.ids[i]} ~ {right.ids[j]} (distance {distance})" for i, j, distance in pairs]
    return listed([*named, *[""] * (len(found.left) - len(named))], 5)


def _limit(found: Near) -> str:
    if found.limit == image_hash.MAX_DISTANCE:
        return ""
    return (f" So many images are alike that only pairs up to distance {found.limit} were compared, "
            f"not {image_hash.MAX_DISTANCE}.")  # fmt: skip


def _without(found: Near, left: Examples, right: Examples, exact: set[tuple[str, str]]) -> Near:
    """Leave out the exact copies, which are counted separately."""
    if not exact:
        return found
    pairs = zip(found.left.tolist(), found.right.tolist(), strict=True)
    return found.take(np.array([(left.ids[i], right.ids[j]) not in exact for i, j in pairs], bool))


def _rows(found: Near, left: Examples, right: Examples) -> list[NearCopy]:
    columns = zip(*(column[:MAX_LISTED].tolist() for column in found[:4]), strict=True)
    return [NearCopy(left.ids[i], int(left.labels[i]), right.ids[j], int(right.labels[j]), distance, mirrored)
            for i, j, distance, mirrored in columns]  # fmt: skip
