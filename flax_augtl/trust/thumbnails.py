"""Small images inside of a page: no file beside it, and nothing to load."""

import base64
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from flax_augtl.runtime.markup import Markup, element, join, picture

SIDE = 160


def data_uri(image: Image.Image, side: int = SIDE) -> str:
    """Return an image as a data URI, its longer side at most `side` pixels; tiny images are magnified."""
    image = image.convert("RGB")
    scale = side / max(image.size)
    if scale < 1:
        image.thumbnail((side, side))
    elif scale >= 2:  # Show the pixels of a tiny image, without smoothing.
        image = image.resize((int(scale) * image.width, int(scale) * image.height), Image.Resampling.NEAREST)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def thumbnail(read: Callable[[int], np.ndarray], position: int, name: str, *captions: object) -> Markup:
    """Return a figure of an image with captions; a grey box if the image can no longer be read.

    Args:
      read: returns an image, uint8 [H, W, 3].
      position: of the image.
      name: of the image, for readers that do not show it.
      captions: the lines below it.
    """
    try:
        shown: Markup = picture(data_uri(Image.fromarray(read(position))), name)
    except (OSError, ValueError):
        shown = element("div", "cannot be read", {"class": "absent"})
    lines = join(*(element("div", caption) for caption in captions))
    return element("figure", join(shown, element("figcaption", lines)))
