"""Keep a whole dataset on the device, and crop the views there, inside the compiled step.

For each example the host sends only the position of the image, the crop and the label: a few bytes.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import keyed_random
from flax_augtl.data.errors import DataError
from flax_augtl.data.images.transforms import random_box, training_path
from flax_augtl.data.loading import sampler
from flax_augtl.data.types import Examples

Batch = dict[str, np.ndarray]
_METHODS = {"BILINEAR": "linear", "BICUBIC": "cubic", "LANCZOS": "lanczos3"}


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """The prepared images of one split.

    Attributes:
      images: uint8 [n, H, W, 3], where H and W are those of the largest image; smaller images are at the top left.
      sizes: int32 [n, 2], height and width of each image.
      crop: config.data.crop.
      method: the name that `jax.image` has for the interpolation of the weights.
      image_size: side of the views, in pixels.
    """

    images: np.ndarray
    sizes: np.ndarray
    crop: str
    method: str
    image_size: int


def make_pool(examples: Examples, preprocessing, data: DataConfig, *, image_size: int) -> Pool | None:
    """Prepare all images for the device; return None if they need more than config.data.cache_gb.

    Raises:
      DataError: config.data.policy is set, which runs on the host, or the device does not support the interpolation.
    """
    if data.policy != "none":
        raise DataError("config.data.policy runs on the host; set it to none to keep the data on the device.")
    interpolation = preprocessing.interpolation.upper()
    if interpolation not in _METHODS and data.crop == "resized":
        raise DataError(f"The interpolation {preprocessing.interpolation} cannot be done on the device.")
    path = training_path(data, preprocessing, image_size)
    budget = data.cache_gb * 1e9
    pixels, largest = [], np.zeros(2, int)
    for index in examples.indices.tolist():
        pixels.append(np.asarray(path.prepare(examples.source, index)))
        largest = np.maximum(largest, pixels[-1].shape[:2])
        if largest.prod() * 3 * len(examples) > budget:
            return None
    images = np.zeros((len(examples), *largest, 3), np.uint8)
    for image, each in zip(images, pixels, strict=True):
        image[: each.shape[0], : each.shape[1]] = each
    sizes = np.array([each.shape[:2] for each in pixels], np.int32)
    return Pool(images, sizes, data.crop, _METHODS.get(interpolation, ""), image_size)


def pool_batches(
    pool: Pool,
    examples: Examples,
    data: DataConfig,
    *,
    batch_size: int,
    seed: int,
    position: int = 0,
    steps: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Yield the batches of `loader.train_batches`, but with crops in place of images.

    Yields:
      {"index": int32 [b], positions of the images in the pool; "box": int32 [b, 4], left, top, right and bottom of the
      crops; "label", "id", "view": as there}, for `cut`.
    """
    draw_ids, n = examples.draw_ids, len(examples)
    for step in range(position, steps):
        which, views = sampler.stream(
            step * batch_size + process_index,
            (step + 1) * batch_size,
            n,
            seed,
            stride=process_count,
            views=data.views,
        )
        boxes = [_box(pool, i, data, int(draw_ids[i]), int(view)) for i, view in zip(which, views, strict=True)]
        yield {
            "index": which.astype(np.int32),
            "box": np.array(boxes, np.int32),
            "label": examples.labels[which],
            "id": draw_ids[which],
            "view": views,
        }


def cut(
    images: jax.Array, sizes: jax.Array, index: jax.Array, box: jax.Array, *, image_size: int, crop: str, method: str
) -> jax.Array:
    """Crop the views of a batch from the pool; a pure function, for use inside the compiled step.

    Args:
      images: images of the pool, on the device.
      sizes: sizes of the pool, on the device.
      index: positions of the images, from the batch.
      box: crops, from the batch.
      image_size: side of the views, in pixels.
      crop: config.data.crop.
      method: interpolation, see `Pool`.

    Returns:
      uint8 [b, image_size, image_size, 3]: the pixels that the host would make. If images are scaled, they may differ
      by up to 2 of 255, because Pillow rounds between its two passes.
    """
    if crop != "resized":

        def piece(i, corner):
            return jax.lax.dynamic_slice(images, (i, corner[1], corner[0], 0), (1, image_size, image_size, 3))[0]

        return jax.vmap(piece)(index, box)

    shape = (image_size, image_size)

    def scaled(i, part):
        left, top, right, bottom = part.astype(jnp.float32)
        scale = image_size / jnp.stack([bottom - top, right - left])
        move = -jnp.stack([top, left]) * scale

        def resample(x):
            return jax.image.scale_and_translate(x, (*shape, x.shape[-1]), (0, 1), scale, move, method, antialias=True)

        # The padding beyond the edge of an image must have no weight.
        rows, columns = jnp.arange(images.shape[1])[:, None], jnp.arange(images.shape[2])[None, :]
        within = ((rows < sizes[i, 0]) & (columns < sizes[i, 1])).astype(jnp.float32)[..., None]
        pixels = resample(images[i].astype(jnp.float32)) / resample(within)
        return jnp.clip(jnp.rint(pixels), 0, 255).astype(jnp.uint8)

    return jax.vmap(scaled)(index, box)


def _box(pool: Pool, i: int, data: DataConfig, draw_id: int, view: int) -> tuple[int, int, int, int]:
    height, width = pool.sizes[i].tolist()
    size = pool.image_size
    if pool.crop == "resized":
        uniform = keyed_random.example_uniforms(22, data.view_seed, draw_id, view)
        return random_box((width, height), uniform, data.crop_scale)
    if pool.crop == "random":
        across, down = keyed_random.example_uniforms(2, data.view_seed, draw_id, view)
        left, top = int(across * (width - size + 1)), int(down * (height - size + 1))
        return left, top, left + size, top + size
    return 0, 0, size, size
