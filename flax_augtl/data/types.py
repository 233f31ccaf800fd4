"""Datasets and their examples, with random access and stable ids."""

import dataclasses
import functools
import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from flax_augtl.errors import UserError
from flax_augtl.runtime.text import for_terminal


class Source(Protocol):
    """Give images by number: `source[i]` is an RGB Pillow image, or a uint8 array [H, W, 3]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image.Image | np.ndarray: ...


class ArraySource:
    """Hold images of one size in memory.

    Attributes:
      images: uint8 [n, H, W, 3].
    """

    def __init__(self, images: np.ndarray):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(f"Images must be uint8 [n, H, W, 3]; these are {images.dtype} {list(images.shape)}.")
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def stamp(self, index: int) -> str:
        """Return a checksum of an image."""
        return str(zlib.crc32(np.ascontiguousarray(self.images[index]).data))

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Some examples of a source, in a fixed order.

    Attributes:
      source: holds the images.
      indices: int64 [n], positions in the source.
      labels: int32 [n], positions in the dataset's class names.
      ids: n texts, unique within the dataset; the same image has the same id on every machine.
    """

    source: Source
    indices: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]

    def __post_init__(self):
        if not len(self.indices) == len(self.labels) == len(self.ids):
            raise UserError(
                f"{len(self.indices)} indices, {len(self.labels)} labels and {len(self.ids)} ids do not go together."
            )

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        """Return one line: how many there are."""
        return f"<{len(self)} examples of {np.count_nonzero(np.bincount(self.labels))} classes>"

    def take(self, which: np.ndarray | Sequence[int]) -> "Examples":
        """Return the examples at these positions, int [m], in that order."""
        which = np.asarray(which, np.int64)
        return Examples(self.source, self.indices[which], self.labels[which], tuple(self.ids[i] for i in which))

    @functools.cached_property
    def draw_ids(self) -> np.ndarray:
        """Return the ids as numbers, uint32 [n], which are the keys of random numbers.

        They are hashes of the ids, not positions, so that a new image in a folder changes no other image's random
        numbers. If two examples have the same hash (one pair in 2³²), they share random numbers and nothing else.
        """
        digests = b"".join(hashlib.blake2b(name.encode(), digest_size=4).digest() for name in self.ids)
        return np.frombuffer(digests, "<u4").astype(np.uint32)


class NearCopy(NamedTuple):
    """Two examples whose images are alike but not equal, by id and label; see `image_hash`."""

    image: str
    label: int
    copy: str
    copy_label: int
    distance: int
    mirrored: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled dataset with the splits for one seed.

    Attributes:
      name: what the user called it.
      class_names: the name of each class; labels are positions in this tuple.
      train: the training examples.
      val: the validation examples; None if there are none.
      test: the test examples.
      metric: "top1" or "mean_per_class", whichever the literature reports for this dataset.
      notes: sentences for the log.
      fingerprint: hexadecimal digits that depend on the ids, the labels and the splits.
      skipped: {path: reason} of the images that cannot be read and were skipped.
      near_copies: all pairs that were found, nearest first, including examples that are in no split.
    """

    name: str
    class_names: tuple[str, ...]
    train: Examples
    val: Examples | None
    test: Examples
    metric: str = "top1"
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    near_copies: tuple[NearCopy, ...] = ()

    def __post_init__(self):
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", fingerprint(self.class_names, self.split_ids(), self._labels()))

    def __repr__(self) -> str:
        """Return one line: classes and sizes."""
        sizes = ", ".join(f"{len(split)} {name}" for name, split in self._splits().items())
        return for_terminal(f"<Dataset {self.name}: {len(self.class_names)} classes; {sizes} examples>")

    def split_ids(self) -> dict[str, list[str]]:
        """Return the ids of every split, as plain values for JSON."""
        return {name: list(split.ids) for name, split in self._splits().items()}

    def _splits(self) -> dict[str, Examples]:
        return {"train": self.train, **({"val": self.val} if self.val is not None else {}), "test": self.test}

    def _labels(self) -> list[list[int]]:
        return [split.labels.tolist() for split in self._splits().values()]


def fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal digits that depend on the `repr` of every part."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(repr(part).encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()
