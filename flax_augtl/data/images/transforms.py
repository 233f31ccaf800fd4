"""Transform images on the host into the squares that go to the device.

A path has two halves. `prepare` uses no random numbers, so its results can be cached. `finish` makes one view of a
prepared image. Its random numbers depend on (view seed, example, view) only, so a view of an example is the same in
every run.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import keyed_random
from flax_augtl.data.errors import DataError
from flax_augtl.data.images import rand_augment
from flax_augtl.data.types import Source

RATIO = (3 / 4, 4 / 3)

Box = tuple[int, int, int, int]  # left, top, right, bottom


class Path(NamedTuple):
    """The two halves of a transform.

    Attributes:
      key: identifies the results of `prepare`; a cache with another key is not valid for this path.
      prepare: (source, index) → RGB image.
      finish: (prepared image, draw id, view) → uint8 [size, size, 3]; None if the view is the prepared image itself.
      size: side of the result, in pixels.
      crops: number of crops that `finish` makes of each image; 0 if the view is a single one without an axis for them.
      skips: whether an image that cannot be read becomes black, and its reason is returned, instead of an error.
    """

    key: str
    prepare: Callable[[Source, int], Image.Image]
    finish: Callable[[Image.Image, int, int], np.ndarray] | None
    size: int
    crops: int = 0
    skips: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one result, (size, size, 3), with the crops in front if there are any."""
        return (*((self.crops,) if self.crops else ()), self.size, self.size, 3)


def evaluation_path(preprocessing, size: int) -> Path:
    """Return the path of the evaluation transform, which is not random."""

    def prepare(source, index):
        return Image.fromarray(preprocessing.resize_and_crop(decoded(source, index)))

    return Path(f"evaluation {size} {preprocessing}", prepare, None, size)


def training_path(data: DataConfig, preprocessing, size: int) -> Path:
    """Return the path for training, as config.data describes it.

    With `crop` "resized", a crop of random area and aspect ratio is resized to the input size. With "random", the image
    is resized as for evaluation, then a random square is cropped. With "none", the evaluation transform is used. After
    that, `policy` "rand" applies RandAugment, and "trivial" TrivialAugment.

    Raises:
      DataError: config.data.crop_scale is not a range of shares.
    """
    crop, scale, view_seed = data.crop, data.crop_scale, data.view_seed
    if not 0 < scale[0] <= scale[1] <= 1:
        raise DataError(f"config.data.crop_scale={scale} must be two shares of the area, 0 < least ≤ most ≤ 1.")
    policy = rand_augment.POLICIES[data.policy]
    resample, short = resampling(preprocessing), preprocessing.resize_size
    # An image that is not resized must be decoded at its own size.
    enough_to_resize = None if preprocessing.resize == "none" else (2 * short, 2 * short)

    def prepare_resized(source, index):
        # Large enough that even the smallest crop has as many pixels as the input.
        enough = math.ceil(size / math.sqrt(scale[0] * RATIO[0]))
        return decoded(source, index, at_least=(enough, enough))

    def finish_resized(image, draw_id, view):
        uniform = keyed_random.example_uniforms(22 + rand_augment.DRAWS, view_seed, draw_id, view)
        cut = image.resize((size, size), resample, box=random_box(image.size, uniform, scale))
        return np.asarray(policy(cut, uniform[22:]))

    def prepare_random(source, index):
        return at_least_square(preprocessing.resized(decoded(source, index, at_least=enough_to_resize)), size)

    def finish_random(image, draw_id, view):
        uniform = keyed_random.example_uniforms(2 + rand_augment.DRAWS, view_seed, draw_id, view)
        width, height = image.size
        left, top = int(uniform[0] * (width - size + 1)), int(uniform[1] * (height - size + 1))
        return np.asarray(policy(image.crop((left, top, left + size, top + size)), uniform[2:]))

    def finish_none(image, draw_id, view):
        return np.asarray(policy(image, keyed_random.example_uniforms(rand_augment.DRAWS, view_seed, draw_id, view)))

    if crop == "none":
        path = evaluation_path(preprocessing, size)
        return path if policy is rand_augment.nothing else path._replace(finish=finish_none)
    if crop == "random":
        return Path(f"{preprocessing.resize} {short} {resample.name}", prepare_random, finish_random, size)
    return Path(f"decoded for {size} {scale[0]}", prepare_resized, finish_resized, size)


def decoded(source: Source, index: int, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Return an image of a source as RGB; a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, down to `at_least`.

    The size depends on the image and the settings, never on the view, so that cached images are the same.
    """
    if at_least is not None and (read := getattr(source, "read", None)) is not None:
        return read(index, at_least=at_least)
    image = source[index]
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def random_box(image_size: tuple[int, int], uniform: np.ndarray, scale: Sequence[float]) -> Box:
    """Draw a random crop with a share of the image's area and an aspect ratio between 3:4 and 4:3.

    Like torchvision, try ten times. If no crop fits into a very long image, return its centre with the nearest aspect
    ratio.

    Args:
      image_size: (width, height).
      uniform: float64 [22 or more], random numbers in [0, 1).
      scale: smallest and largest share of the area.
    """
    width, height = image_size
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for attempt in range(10):
        area = width * height * (scale[0] + (scale[1] - scale[0]) * uniform[2 * attempt])
        ratio = math.exp(low + (high - low) * uniform[2 * attempt + 1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(uniform[20] * (width - w + 1)), int(uniform[21] * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def at_least_square(image: Image.Image, side: int) -> Image.Image:
    """Pad an image with black to at least `side` pixels in both directions."""
    width, height = (max(extent, side) for extent in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def resampling(preprocessing) -> Image.Resampling:
    """Return Pillow's filter for the interpolation of the weights."""
    return Image.Resampling[preprocessing.interpolation.upper()]
