"""Find near-copies by perceptual hashes: images that look the same although their bytes and pixels differ.

Two images are near-copies if their hashes are close and their thumbnails differ little everywhere. The hash alone
cannot tell apart images with little content, such as handwritten digits; the thumbnails can. `python -m
flax_augtl.benchmarks.near_copies` measures what the limits find.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

VERSION = 1  # Version of the hashes and of the rules for near-copies.
# Number of bits that may differ, of 256.
MAX_DISTANCE = 40
# Largest difference of two thumbnails in grey levels, after brightness and contrast are made equal.
MAX_DIFFERENCE = 45.0
# The same in standard deviations of the thumbnail: images of low contrast may differ less.
MAX_RELATIVE_DIFFERENCE = 2.5
# Largest difference in mean grey level. It makes the search fast, because most images differ more.
MAX_BRIGHTNESS = 16.0
# Images whose grey levels have a smaller standard deviation are not compared, because images of one colour are all
# alike.
MIN_CONTRAST = 1.0
# Largest number of pairs to keep; if there are more, the largest distance is lowered.
MAX_PAIRS = 1_000_000

_HASH_SIDE = 16
_GREY_SIDE = 4 * _HASH_SIDE  # What imagehash resizes to.
THUMB_SIDE = 16
HASH_BYTES = _HASH_SIDE**2 // 8
_ROWS, _COLUMNS = 16, 8192  # Size of a block that is compared at once; it fits into the cache of a core.


class Pairs(NamedTuple):
    """Near-copies among n images, sorted by position.

    Attributes:
      first: int64 [k], position of the first image.
      second: int64 [k], position of the second image; first < second.
      distance: int64 [k], bits in which the hashes differ.
      mirrored: bool [k], whether one is the mirror image of the other.
      limit: the largest distance that was listed: `MAX_DISTANCE`, or less if there are too many pairs.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    mirrored: np.ndarray
    limit: int


def shrunk(image: Image.Image) -> Image.Image:
    """Resize an RGB image to the size that `describe` expects."""
    return image.resize((_GREY_SIDE, _GREY_SIDE), Image.Resampling.BILINEAR, reducing_gap=1.0)


def describe(small: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes of a `shrunk` image and its mirror image, uint8 [2, 32], and a grey thumbnail, uint8 [256]."""
    import imagehash  # Slow to import, and only a scan needs it.

    grey = small.convert("L")
    hashes = [np.packbits(imagehash.phash(view, hash_size=_HASH_SIDE).hash) for view in (grey, ImageOps.mirror(grey))]
    return np.stack(hashes), np.asarray(grey.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)).ravel()


def search(
    hashes: np.ndarray, thumbs: np.ndarray, max_distance: int = MAX_DISTANCE, *, check_thumbs: bool = True
) -> Pairs:
    """Find all near-copies among n images.

    Args:
      hashes: uint8 [n, 2, 32], hashes from `describe`.
      thumbs: uint8 [n, 256], thumbnails from `describe`.
      max_distance: number of bits that may differ.
      check_thumbs: whether to compare the thumbnails as well.
    """
    brightness = thumbs.mean(1, dtype=np.float32)
    compared = np.flatnonzero(thumbs.std(1, dtype=np.float32) >= MIN_CONTRAST)
    order = compared[np.argsort(brightness[compared], kind="stable")]
    words = np.ascontiguousarray(hashes[order]).view(np.uint64)
    ends = np.searchsorted(brightness[order], brightness[order] + MAX_BRIGHTNESS, "right")

    def compare(start: int) -> np.ndarray:
        """Compare some images with later ones in `order`; return int64 [k, 4]: first, second, distance and mirrored."""
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
    """Return the positions of the pairs of rows, uint64 [m, 4] and [n, 4], that differ in at most `limit` bits."""
    distance = np.bitwise_count(rows[:, None, 0] ^ columns[None, :, 0])
    distance += np.bitwise_count(rows[:, None, 1] ^ columns[None, :, 1])
    # Half of the bits suffice to rule out nearly all pairs.
    i, j = np.nonzero(distance <= limit)
    near = np.bitwise_count(rows[i] ^ columns[j]).sum(1, dtype=np.int64) <= limit
    return i[near], j[near]


def _look_alike(ours: np.ndarray, theirs: np.ndarray, mirrored: bool) -> np.ndarray:
    """Tell which rows of two stacks of thumbnails, uint8 [k, 256], look alike: bool [k]."""
    if len(ours) > _COLUMNS:  # Few enough at a time that memory is not a concern.
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
    """Lower the limit until at most `MAX_PAIRS` pairs are left; the result does not depend on their order."""
    while len(found) > MAX_PAIRS:
        limit -= 1
        found = found[found[:, 2] <= limit]
    return found, limit


def _sorted(found: np.ndarray, limit: int) -> Pairs:
    found = found[found[:, 2] <= limit]
    found = np.concatenate([np.sort(found[:, :2], 1), found[:, 2:]], 1)
    # Symmetric images match both ways: keep the closer match, and the unmirrored one of two equally close.
    found = found[np.lexsort((found[:, 3], found[:, 2], found[:, 1], found[:, 0]))]
    first_of_pair = np.ones(len(found), bool)
    first_of_pair[1:] = (found[1:, :2] != found[:-1, :2]).any(1)
    first, second, distance, mirrored = found[first_of_pair].T
    return Pairs(first, second, distance, mirrored.astype(bool), limit)
