"""Make the images of some examples, in a thread or in a worker process of the loader.

This module imports neither JAX nor Grain, which take seconds to import, so that worker processes start in half a
second.
"""

import numpy as np

from flax_augtl.data.images.transforms import Path
from flax_augtl.data.loading.cache import view_of
from flax_augtl.data.types import Source


def make(
    images: np.ndarray, source: Source, path: Path, indices: np.ndarray, draw_ids: np.ndarray, views: np.ndarray
) -> None:
    """Write one view of each example into `images`.

    Args:
      images: uint8 [m, size, size, 3], the output.
      source: the source of the images.
      path: the transform.
      indices: int64 [m], positions in the source; rows with positions below 0 become black.
      draw_ids: uint32 [m], see `Examples.draw_ids`.
      views: int32 [m], the number of the view of each example.
    """
    for row, (index, draw_id, view) in enumerate(zip(indices.tolist(), draw_ids.tolist(), views.tolist(), strict=True)):
        images[row] = view_of(source, path, index, draw_id, view) if index >= 0 else 0
