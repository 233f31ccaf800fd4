"""Write the embeddings of image files: `--mode=embed`."""

import numpy as np
from etils import epath

from flax_augtl.data import UnreadablePicture
from flax_augtl.data.images.decode import read_picture
from flax_augtl.data.sources.patterns import find_images
from flax_augtl.errors import UserError
from flax_augtl.run import Run
from flax_augtl.trust import embeddings, progress


def embed_files(
    run: Run,
    images: str,
    path: epath.Path,
    *,
    layer: str | None = None,
    pooled: bool = True,
    batch_size: int = 32,
    max_pixels: int | None = None,
) -> tuple[np.ndarray, dict[str, str]]:
    """Write the embeddings of images in files.

    Args:
      run: the run whose network embeds them.
      images: an image, a folder, or a pattern.
      path: the file to write, .npz or .parquet.
      layer: a layer group; None is the one below the classification layer.
      pooled: whether to average over places.
      batch_size: number of images per batch.
      max_pixels: images with more pixels count as unreadable; None for the limit of the training.

    Returns:
      (the embeddings float32 [N, ...]; why each unreadable file was left out).

    Raises:
      UserError: there is no such layer, there are no images, or none can be read.
    """
    layer = embeddings.checked_layer(run.network, layer)
    paths, unreadable = find_images(images), {}
    kept: list[str] = []
    found: list[np.ndarray] = []
    starts = range(0, len(paths), batch_size)
    for start in progress.shown(starts, f"embeddings of {layer}", len(paths), batch_size):
        read = {}
        for name in paths[start : start + batch_size]:
            try:
                read[name] = np.asarray(read_picture(name, max_pixels=max_pixels or run.config.data.max_pixels))
            except UnreadablePicture as error:
                unreadable[name] = error.reason
        if read:
            kept += read
            found.append(run.embed(list(read.values()), layer=layer, pooled=pooled, batch_size=batch_size))
    if not found:
        told = "\n  ".join(f"{name}: {reason}" for name, reason in unreadable.items())
        raise UserError(f"No image could be read:\n  {told}")
    rows = np.concatenate(found)
    embeddings.write(path, kept, rows, layer)
    return rows, unreadable
