"""Prepare the images that users pass to `Run.predict`: arrays, Pillow images, or paths."""

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from flax_augtl.data.errors import DataError, UnreadableImage
from flax_augtl.data.images.decode import read_image, upright_rgb
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.errors import UserError
from flax_augtl.runtime.paths import is_remote
from flax_augtl.runtime.text import on_one_line

Input = np.ndarray | Image.Image | str | os.PathLike
CROPS = 5  # Of `network_crops`.


def checked(images: Iterable[Input], batch_size: int) -> Iterator[Input]:
    """Return an iterator over the images.

    Raises:
      UserError: `images` is one image, not several, or `batch_size` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1.")
    if isinstance(images, (str, os.PathLike, Image.Image)) or getattr(images, "ndim", 4) == 3:
        raise UserError("predict takes several images, in a list: run.predict([image]).")
    return iter(images)


def batches(images: Iterable[Input], batch_size: int) -> Iterator[list[Input]]:
    """Yield the images in lists of `batch_size`, the last one shorter.

    Raises:
      UserError: see `checked`.
    """
    images = checked(images, batch_size)
    while batch := list(itertools.islice(images, batch_size)):
        yield batch


def network_input(image: Input, preprocessing: Preprocessing) -> np.ndarray:
    """Apply the evaluation transform to an image and return uint8 [S, S, 3].

    Raises:
      UserError: the value is not an image, or the file cannot be read.
    """
    return preprocessing.resize_and_crop(_pillow(image))


def network_crops(image: Input, preprocessing: Preprocessing) -> np.ndarray:
    """Return the centre and the four corners of the resized image, uint8 [5, S, S, 3]; the first is `network_input`.

    Where the resized image is smaller than the crop, as is possible without resizing, all crops along that side are the
    centre.

    Raises:
      UserError: the value is not an image, or the file cannot be read.
    """
    found, side = _pillow(image), preprocessing.image_size
    crops = [preprocessing.resize_and_crop(found)]
    resized = preprocessing.resized(found)
    right, bottom = resized.width - side, resized.height - side
    for left, top in ((0, 0), (right, 0), (0, bottom), (right, bottom)):
        left, top = (place if room >= 0 else room // 2 for place, room in ((left, right), (top, bottom)))
        crops.append(np.asarray(resized.crop((left, top, left + side, top + side))))
    return np.stack(crops)


def _pillow(image: Any) -> Image.Image:
    if isinstance(image, (str, os.PathLike)):
        try:
            return read_image(os.fspath(image))
        except UnreadableImage as error:
            where = "" if os.path.isabs(image) or is_remote(image) else f" Its path is relative to {os.getcwd()}."
            raise DataError(f"The image {on_one_line(error.path)} cannot be read: {error.reason}.{where}") from error
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    if not hasattr(image, "shape") or not hasattr(image, "dtype"):
        raise UserError(
            f"An image must be a uint8 array [H, W, 3], a Pillow image or a path, not {on_one_line(repr(image))[:60]}."
        )
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise UserError(f"An image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}.")
    return Image.fromarray(image)
