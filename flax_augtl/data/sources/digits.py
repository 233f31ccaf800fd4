"""Load scikit-learn's 1797 handwritten UCI digits of 8 × 8 pixels, which need no download."""

import functools
from typing import Any

import numpy as np
from PIL import Image

from flax_augtl.data.types import ArraySource

SIZE = 32
CLASS_NAMES = tuple("0123456789")


@functools.cache
def digits() -> tuple[ArraySource, np.ndarray]:
    """Return the digits at 32 × 32 pixels, white on black.

    Returns:
      (source of uint8 [1797, 32, 32, 3], labels int32 [1797]).
    """
    from sklearn.datasets import load_digits  # Slow to import, and only this dataset needs it.

    bunch: Any = load_digits()  # A Bunch; scikit-learn's annotation says tuple.
    small = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # The values go from 0 to 16.
    large = [np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for image in small]
    return ArraySource(np.repeat(np.stack(large)[..., None], 3, axis=-1)), bunch.target.astype(np.int32)
