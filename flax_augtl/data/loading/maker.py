"""Making the images of some examples: what a thread, or a worker process, of the loader does.

Nothing that is imported here needs JAX or Grain, which take seconds to import: a worker process starts in half a
second.
"""

import numpy as np

from flax_augtl.data.images.transforms import Path
from flax_augtl.data.loading.cache import view_of
from flax_augtl.data.types import Source


def make(images: np.ndarray, source: Source, path: Path, indices: np.ndarray, draw_ids: np.ndarray, views: np.ndarray):
    """Put one view of each example into `images`.

    Args:
        images: uint8 [m, size, size, 3], written to.
        source, path: of the images.
        indices: int64 [m], positions in the source; an image below 0 is blank.
        draw_ids, views: uint32 and int32 [m], of the examples.
    """
    for row, (index, draw_id, view) in enumerate(zip(indices.tolist(), draw_ids.tolist(), views.tolist(), strict=True)):
        images[row] = view_of(source, path, index, draw_id, view) if index >= 0 else 0
