"""Training crops, on the host: what happens to a picture before it has the size of the network's input.

Every draw is a function of (view seed, example, view), so that a view of an example is the same picture in every run.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from flax_augtl.data import draws
from flax_augtl.data.errors import DataError

CROPS = ("resized", "random", "none")
RATIO = (3 / 4, 4 / 3)

Box = tuple[int, int, int, int]  # left, top, right, bottom


def training_crop(
    crop: str, size: int, *, view_seed: int, scale: tuple[float, float], preprocessing
) -> Callable[[Image.Image, int, int], np.ndarray]:
    """The host's part of a training view: (RGB picture, draw id, view) → uint8 [size, size, 3].

    Args:
        crop: "resized": a random part of the area and shape of the picture, scaled to the input size; "random": the
            short side is scaled as for evaluation, then a random square is cut; "none": the evaluation transform.
        size: side of the result, pixels.
        view_seed: with the example and the view, the key of every draw.
        scale: least and largest share of the picture's area, for "resized".
        preprocessing: the weights' own evaluation transform.

    Raises:
        DataError: an unknown crop, or a scale that is no range of shares.
    """
    if crop not in CROPS:
        raise DataError(f'config.data.crop="{crop}" is unknown; choose one of {", ".join(CROPS)}.')
    if not 0 < scale[0] <= scale[1] <= 1:
        raise DataError(f"config.data.crop_scale={tuple(scale)} must be two shares of the area, 0 < least ≤ most ≤ 1.")
    resample = resampling(preprocessing)

    def resized(image: Image.Image, draw_id: int, view: int) -> np.ndarray:
        box = random_box(image.size, draws.example_uniforms(22, view_seed, draw_id, view), scale)
        return np.asarray(image.resize((size, size), resample, box=box))

    def random(image: Image.Image, draw_id: int, view: int) -> np.ndarray:
        across, down = draws.example_uniforms(2, view_seed, draw_id, view)
        width, height = short_side(image.size, preprocessing.resize_size)
        left, top = int(across * (width - size + 1)), int(down * (height - size + 1))
        return np.asarray(image.resize((width, height), resample).crop((left, top, left + size, top + size)))

    def none(image: Image.Image, draw_id: int, view: int) -> np.ndarray:
        return np.asarray(preprocessing.resize_and_crop(image))

    return {"resized": resized, "random": random, "none": none}[crop]


def random_box(image_size: tuple[int, int], uniform: np.ndarray, scale: tuple[float, float]) -> Box:
    """A random part of a picture: its area a share of the picture's, its shape between 3:4 and 4:3.

    Ten tries, as is usual; a picture too long for all of them gives its central part of the nearest shape.

    Args:
        image_size: (width, height).
        uniform: float64 [22] in [0, 1).
        scale: least and largest share of the area.
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


def short_side(image_size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) of a picture scaled so that its short side is `side`; the long side is rounded down."""
    width, height = image_size
    if width <= height:
        return side, max(side, int(side * height / width))
    return max(side, int(side * width / height)), side


def resampling(preprocessing) -> Image.Resampling:
    """Pillow's filter for the weights' interpolation."""
    return Image.Resampling[preprocessing.interpolation.upper()]
