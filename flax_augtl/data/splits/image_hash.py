"""Perceptual hashes: which of many images show the same, although their bytes and pixels differ.

Two images are near-copies if their hashes are close and their thumbnails nowhere far apart. The hash alone takes
different images of little content, such as handwritten digits, for copies of each other; the thumbnail tells them
apart. `python -m flax_augtl.benchmarks.near_copies` measures what the limits find.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

VERSION = 1  # Of the hashes and of what counts as a near-copy.
# Bits that may differ, of 256.
MAX_DISTANCE = 40
# Grey levels by which two thumbnails may differ anywhere, once brightness and contrast are made equal.
MAX_DIFFERENCE = 45.0
# The same in standard deviations of the thumbnail: less is allowed where an image has little contrast.
MAX_RELATIVE_DIFFERENCE = 2.5
# Mean grey levels by which near-copies may differ. Also what makes the search fast: most images are further apart.
MAX_BRIGHTNESS = 16.0
# Images of one colour are all alike; those with a smaller standard deviation in grey levels are not compared.
MIN_CONTRAST = 1.0
# Pairs that are kept; where there are more, the limit of the distance is lowered.
MAX_PAIRS = 1_000_000

_HASH_SIDE = 16
_GREY_SIDE = 4 * _HASH_SIDE  # What imagehash resizes to.
THUMB_SIDE = 16
HASH_BYTES = _HASH_SIDE**2 // 8
_ROWS, _COLUMNS = 16, 8192  # Of a block that is compared at once: small enough for a core's cache.


class Pairs(NamedTuple):
    """Near-copies among n images, sorted by position.

    Attributes:
      first, second: int64 [k], positions; first < second.
      distance: int64 [k], bits in which the hashes differ.
      mirrored: bool [k], whether one is the mirror image of the other.
      limit: the largest distance of what is listed: `MAX_DISTANCE`, or less where there are too many pairs.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    mirrored: np.ndarray
    limit: int


def shrunk(image: Image.Image) -> Image.Image:
    """Return an RGB image in the size that `describe` wants."""
    return image.resize((_GREY_SIDE, _GREY_SIDE), Image.Resampling.BILINEAR, reducing_gap=1.0)


def describe(small: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of a `shrunk` image and of its mirror image, uint8 [2, 32], and a grey thumbnail, uint8 [256]."""
    import imagehash  # Takes a while, and only a scan needs it.

    grey = small.convert("L")
    hashes = [np.packbits(imagehash.phash(view, hash_size=_HASH_SIDE).hash) for view in (grey, ImageOps.mirror(grey))]
    return np.stack(hashes), np.asarray(grey.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)).ravel()


def search(
    hashes: np.ndarray, thumbs: np.ndarray, max_distance: int = MAX_DISTANCE, *, check_thumbs: bool = True
) -> Pairs:
    """Find all near-copies among n images.

    Args:
      hashes: uint8 [n, 2, 32], as `describe` makes them.
      thumbs: uint8 [n, 256], as `describe` makes them.
      max_distance: bits that may differ.
      check_thumbs: also compare the thumbnails.
    """
    brightness = thumbs.mean(1, dtype=np.float32)
    compared = np.flatnonzero(thumbs.std(1, dtype=np.float32) >= MIN_CONTRAST)
    order = compared[np.argsort(brightness[compared], kind="stable")]
    words = np.ascontiguousarray(hashes[order]).view(np.uint64)
    ends = np.searchsorted(brightness[order], brightness[order] + MAX_BRIGHTNESS, "right")

    def compare(start: int) -> np.ndarray:
        """Compare some images with those after them in `order`: int64 [k, 4] of first, second, distance and mirrored."""
        stop = min(start + _ROWS, len(order))
        found = [np.zeros((0, 4), np.int64)]
        for left in range(start + 1, int(ends[stop - 1]), _COLUMNS):
            right = min(left + _COLUMNS, int(ends[stop - 1]))
            for mirrored in (0, 1):
                rows, columns = _within(words[start:stop, mirrored], words[left:right, 0], max_distance)
                rows, columns = rows + start, columns + left
                once = (columns > rows) & (columns < ends[rows])
                rows, columns = rows[once], columns[once]
                if check_thumbs:
                    alike = _look_alike(thumbs[order[rows]], thumbs[order[columns]], bool(mirrored))
                    rows, columns = rows[alike], columns[alike]
                distance = np.bitwise_count(words[rows, mirrored] ^ words[columns, 0]).sum(1, dtype=np.int64)
                found.append(np.stack([order[rows], order[columns], distance, np.full(len(rows), mirrored)], 1))
        return np.concatenate(found)

    kept, limit, waiting = np.zeros((0, 4), np.int64), max_distance, []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for block in pool.map(compare, range(0, len(order), _ROWS)):
            if len(block):
                waiting.append(block)
            if sum(map(len, waiting)) + len(kept) > MAX_PAIRS:
                kept, limit = _fewer(np.concatenate([kept, *waiting]), limit)
                waiting = []
    return _sorted(np.concatenate([kept, *waiting]), limit)


def _within(rows: np.ndarray, columns: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of rows of uint64 [m, 4] and [n, 4] that differ in few bits, as two arrays of positions."""
    distance = np.bitwise_count(rows[:, None, 0] ^ columns[None, :, 0])
    distance += np.bitwise_count(rows[:, None, 1] ^ columns[None, :, 1])
    # Half of the bits rule out nearly all pairs.
    i, j = np.nonzero(distance <= limit)
    near = np.bitwise_count(rows[i] ^ columns[j]).sum(1, dtype=np.int64) <= limit
    return i[near], j[near]


def _look_alike(ours: np.ndarray, theirs: np.ndarray, mirrored: bool) -> np.ndarray:
    """Tell which rows of two stacks of thumbnails, uint8 [k, 256], differ little: bool [k]."""
    if len(ours) > _COLUMNS:  # As many at a time as memory is no matter of.
        parts = [slice(i, i + _COLUMNS) for i in range(0, len(ours), _COLUMNS)]
        return np.concatenate([_look_alike(ours[part], theirs[part], mirrored) for part in parts])
    if mirrored:
        ours = ours.reshape(-1, THUMB_SIDE, THUMB_SIDE)[:, :, ::-1].reshape(-1, THUMB_SIDE**2)
    ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
    ours, theirs = ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True)
    gain = np.clip((ours * theirs).sum(1) / (ours * ours).sum(1), 0.5, 2.0)
    difference = np.abs(ours * gain[:, None] - theirs).max(1, initial=0.0)
    return difference <= np.minimum(MAX_DIFFERENCE, MAX_RELATIVE_DIFFERENCE * theirs.std(1))


def _fewer(found: np.ndarray, limit: int) -> tuple[np.ndarray, int]:
    """Lower the limit until at most `MAX_PAIRS` are left; what that is depends on the images only, not on the order."""
    while len(found) > MAX_PAIRS:
        limit -= 1
        found = found[found[:, 2] <= limit]
    return found, limit


def _sorted(found: np.ndarray, limit: int) -> Pairs:
    found = found[found[:, 2] <= limit]
    found = np.concatenate([np.sort(found[:, :2], 1), found[:, 2:]], 1)
    # An image that is symmetric is close to the other one both ways: the closer counts, and as it is before mirrored.
    found = found[np.lexsort((found[:, 3], found[:, 2], found[:, 1], found[:, 0]))]
    first_of_pair = np.ones(len(found), bool)
    first_of_pair[1:] = (found[1:, :2] != found[:-1, :2]).any(1)
    first, second, distance, mirrored = found[first_of_pair].T
    return Pairs(first, second, distance, mirrored.astype(bool), limit)
