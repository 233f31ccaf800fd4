"""The examples of a dataset and its three splits, all known by random access and stable ids."""

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
    """Images by number: `source[i]` is a PIL image of mode RGB, or a uint8 array [H, W, 3]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image.Image | np.ndarray: ...


class ArraySource:
    """Images of one size that are already in memory.

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
        """Return what changes when the image does."""
        return str(zlib.crc32(np.ascontiguousarray(self.images[index]).data))

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Some examples of a source, in a fixed order.

    Attributes:
        source: where the images are.
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
        """The examples at these positions (int [m]), in that order."""
        which = np.asarray(which, np.int64)
        return Examples(self.source, self.indices[which], self.labels[which], tuple(self.ids[i] for i in which))

    @functools.cached_property
    def draw_ids(self) -> np.ndarray:
        """uint32 [n]: the ids as numbers, from which random draws are keyed.

        A hash of the id and not a position: adding an image to a folder must not change the draws of the others.
        Two examples may share a number (one pair in 2³²); they then share draws, and nothing else.
        """
        digests = b"".join(hashlib.blake2b(name.encode(), digest_size=4).digest() for name in self.ids)
        return np.frombuffer(digests, "<u4").astype(np.uint32)


class NearCopy(NamedTuple):
    """Two examples, by id and label, whose images are alike but not equal; see `image_hash`."""

    image: str
    label: int
    copy: str
    copy_label: int
    distance: int
    mirrored: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled dataset, split for one seed.

    Attributes:
        name: what the user called it.
        class_names: one name a class; a label is a position here.
        train: the examples that are trained on.
        val: those that choices are made on; None if there are none.
        test: those that are looked at once.
        metric: "top1" or "mean_per_class": the one that the literature reports for this dataset.
        notes: sentences that the log must say.
        fingerprint: hexadecimal; differs if the images known to be there, the labels or the splits differ.
        skipped: {path: reason} of the bad images that were left out.
        near_copies: those that were found, nearest first, also of examples that are in no split.
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
        """The ids of every split, for the run directory; JSON can hold it."""
        return {name: list(split.ids) for name, split in self._splits().items()}

    def _splits(self) -> dict[str, Examples]:
        return {"train": self.train, **({"val": self.val} if self.val is not None else {}), "test": self.test}

    def _labels(self) -> list[list[int]]:
        return [split.labels.tolist() for split in self._splits().values()]


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits that depend on the `repr` of every part."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(repr(part).encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()
