"""Make the images of some examples, in a thread or in a worker process of the loader.

This module imports neither JAX nor Grain, which take seconds to import, so that worker processes start in half a
second.
"""

import numpy as np

from flax_augtl.data.errors import UnreadableImage
from flax_augtl.data.images.transforms import Path
from flax_augtl.data.loading.cache import view_of
from flax_augtl.data.types import Source


def make(
    images: np.ndarray, source: Source, path: Path, indices: np.ndarray, draw_ids: np.ndarray, views: np.ndarray
) -> dict[int, str]:
    """Write one view of each example into `images`.

    Args:
      images: uint8 [m, *path.shape], the output.
      source: the source of the images.
      path: the transform.
      indices: int64 [m], positions in the source; rows with positions below 0 become black.
      draw_ids: uint32 [m], see `Examples.draw_ids`.
      views: int32 [m], the number of the view of each example.

    Returns:
      {row: reason} of the images that cannot be read, if the path skips them; their rows become black.

    Raises:
      UnreadableImage: an image cannot be read, and the path does not skip it.
    """
    unreadable = {}
    for row, (index, draw_id, view) in enumerate(zip(indices.tolist(), draw_ids.tolist(), views.tolist(), strict=True)):
        try:
            images[row] = view_of(source, path, index, draw_id, view) if index >= 0 else 0
        except UnreadableImage as error:
            if not path.skips:
                raise
            images[row], unreadable[row] = 0, error.reason
    return unreadable
