"""Near-copies among all images of a dataset, within and across classes and splits, with the finder of the data scan."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import Examples
from flax_augtl.data.splits import image_hash
from flax_augtl.data.splits.integrity import scan
from flax_augtl.data.types import Source


class CopyPair(NamedTuple):
    """Two images that are alike, by their positions among all images.

    Attributes:
      first: position of one image.
      second: position of the other image.
      distance: bits in which their perceptual hashes differ, see `image_hash`.
      mirrored: whether one is the mirror image of the other.
      equal: whether the files, or the pixels of arrays, are equal.
    """

    first: int
    second: int
    distance: int
    mirrored: bool
    equal: bool


def find_copies(parts: Sequence[Examples], data: DataConfig) -> list[CopyPair]:
    """Return all pairs of near-copies, the nearest first.

    Args:
      parts: the examples; the images are numbered through all of them.
      data: config.data. The scan of image files that loading has made is read again, not repeated.
    """
    described: dict[Source, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for source in {part.source: None for part in parts}:
        used = [part.indices for part in parts if part.source is source]
        described[source] = _described(source, np.unique(np.concatenate(used)), data)
    hashes, thumbs, digests = (
        np.concatenate([described[part.source][kind][part.indices] for part in parts]) for kind in range(3)
    )
    found = image_hash.search(hashes, thumbs)
    equal = (digests[found.first] == digests[found.second]).all(1)
    order = np.lexsort((found.second, found.first, found.distance))
    return [
        CopyPair(int(found.first[k]), int(found.second[k]), int(found.distance[k]), bool(found.mirrored[k]), bool(equal[k]))
        for k in order.tolist()
    ]  # fmt: skip


def groups_of(pairs: Sequence[CopyPair], count: int) -> np.ndarray:
    """Return the number of a group for each of `count` images, int64; images that are copies of others share it."""
    from scipy.sparse import coo_array  # Slow to import.
    from scipy.sparse.csgraph import connected_components

    first, second = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _described(source: Source, used: np.ndarray, data: DataConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hashes, thumbnails and digests of the contents for all images of a source; others than `used` may be 0."""
    if hasattr(source, "encoded"):  # Image files, or records of one file.
        seen = scan(source, "skip", data.scan_dir)  # pyright: ignore[reportArgumentType]
        return seen.hashes, seen.thumbs, seen.digests
    count = len(source)
    hashes = np.zeros((count, 2, image_hash.HASH_BYTES), np.uint8)
    thumbs, digests = np.zeros((count, image_hash.THUMB_SIDE**2), np.uint8), np.zeros((count, 16), np.uint8)

    def look(index: int) -> None:
        pixels = np.asarray(source[index])
        hashes[index], thumbs[index] = image_hash.describe(image_hash.shrunk(Image.fromarray(pixels)))
        content = hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()
        digests[index] = np.frombuffer(content, np.uint8)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(look, used.tolist()))
    return hashes, thumbs, digests
