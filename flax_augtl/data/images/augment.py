"""Augment images on the device, inside the compiled step.

Random keys are folded from (view seed, example id, view), so they do not depend on the batch, the device or the
process. Each operation has its own key: if you turn one on, the random numbers of the others stay the same.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.errors import DataError

FLIPS = ("none", "horizontal", "both")
RIGHT_ANGLES = "right_angles"
_GREY = (0.299, 0.587, 0.114)  # Luma weights of red, green and blue.
_ERASED_AREA = (0.02, 0.33)
_ERASED_SHAPE = (0.3, 3.3)


def augment(
    images: jax.Array,
    ids: jax.Array,
    views: jax.Array,
    *,
    view_seed: int,
    flip: str | bool,
    shift: int,
    jitter: float = 0.0,
    erase: float = 0.0,
    rotate: float | str = 0.0,
    blur: float = 0.0,
) -> jax.Array:
    """Flip, rotate, shift, blur, recolour and partly erase each image, at random and in this order.

    Args:
      images: uint8 [b, S, S, 3].
      ids: uint32 or int32 [b], the examples' draw ids.
      views: int32 [b].
      view_seed: config.data.view_seed, which all runs of a study share.
      flip: "horizontal" mirrors left and right with probability ½, "both" also top and bottom, "none" neither.
      shift: largest shift in pixels, in all directions; the new pixels at the edge are black. 0 for none.
      jitter: brightness, contrast and saturation are each multiplied by a factor from 1 − jitter to 1 + jitter.
      erase: probability that a rectangle of 2 to 33 % of the area gets the image's mean colour.
      rotate: largest angle in degrees, in both directions, with the mirrored image beyond the edge; or "right_angles"
        for 0, 90, 180 or 270 degrees.
      blur: largest standard deviation of the Gaussian, in pixels; drawn uniformly from 0 on.

    Returns:
      uint8 [b, S, S, 3].
    """
    if flip == "none" and not (shift or jitter or erase or rotate or blur):
        return images
    root = jax.random.key(view_seed)

    def one(image, number, view):
        key = jax.random.fold_in(jax.random.fold_in(root, number), view)
        mirror, move = jax.random.split(key)
        if flip != "none":
            image = jnp.where(jax.random.bernoulli(mirror), image[:, ::-1], image)
        if flip == "both":
            image = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 4)), image[::-1], image)
        if rotate:
            image = _rotated(image, jax.random.fold_in(key, 5), rotate)
        if shift:
            corner = jax.random.randint(move, (2,), 0, 2 * shift + 1)
            padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)))
            image = jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape)
        if blur:
            image = _blurred(image, jax.random.fold_in(key, 6), blur)
        if jitter:
            image = _jittered(image, jax.random.fold_in(key, 2), jitter)
        if erase:
            image = _erased(image, jax.random.fold_in(key, 3), erase)
        return image

    return jax.vmap(one)(images, ids.astype(jnp.uint32), views)


def augmentations(data: DataConfig) -> dict[str, Any]:
    """Return the keyword arguments of `augment` that config.data asks for, without `view_seed`.

    Raises:
      DataError: config.data.rotate is invalid.
    """
    rotate = data.rotate
    degrees = float(rotate) if isinstance(rotate, (int, float)) and not isinstance(rotate, bool) else None
    if rotate != RIGHT_ANGLES and not (degrees is not None and 0 <= degrees <= 180):
        raise DataError(f"config.data.rotate={rotate!r} must be an angle of 0 to 180 degrees, or {RIGHT_ANGLES}.")
    return {"flip": str(data.flip), "rotate": rotate if degrees is None else degrees,
            "shift": data.shift, "blur": data.blur, "jitter": data.jitter, "erase": data.erase}  # fmt: skip


def _rotated(image: jax.Array, key: jax.Array, rotate: float | str) -> jax.Array:
    """Rotate one square image about its centre."""
    if rotate == RIGHT_ANGLES:
        turned = jnp.stack([jnp.rot90(image, k) for k in range(4)])
        return turned[jax.random.randint(key, (), 0, 4)]
    assert not isinstance(rotate, str), f"`augmentations` accepts no word except {RIGHT_ANGLES}."
    angle = jax.random.uniform(key, (), minval=-math.radians(rotate), maxval=math.radians(rotate))
    height, width, _ = image.shape
    rows, columns = jnp.meshgrid(
        jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij"
    )
    places = [
        jnp.cos(angle) * rows - jnp.sin(angle) * columns + (height - 1) / 2,
        jnp.sin(angle) * rows + jnp.cos(angle) * columns + (width - 1) / 2,
    ]
    at = jax.vmap(lambda x: jax.scipy.ndimage.map_coordinates(x, places, order=1, mode="mirror"), -1, -1)
    return jnp.rint(at(image.astype(jnp.float32))).astype(jnp.uint8)


def _blurred(image: jax.Array, key: jax.Array, blur: float) -> jax.Array:
    """Blur one image with a Gaussian whose weights inside the image add up to one."""
    deviation = jnp.maximum(jax.random.uniform(key, (), maxval=blur), 1e-3)

    def weights(size):
        distance = jnp.arange(size)[:, None] - jnp.arange(size)[None, :]
        return jax.nn.softmax(-0.5 * jnp.square(distance / deviation), axis=1)

    height, width, _ = image.shape
    # With the highest precision, because the default on accelerators has only 8 or 11 bits.
    blurred = jnp.einsum(
        "yr,rcd,xc->yxd", weights(height), image.astype(jnp.float32), weights(width), precision="highest"
    )
    return jnp.rint(jnp.clip(blurred, 0, 255)).astype(jnp.uint8)


def _jittered(image: jax.Array, key: jax.Array, jitter: float) -> jax.Array:
    """Change brightness, then contrast, then saturation of one image."""
    brightness, contrast, saturation = jax.random.uniform(key, (3,), minval=max(0.0, 1 - jitter), maxval=1 + jitter)
    weights = jnp.array(_GREY)
    x = jnp.clip(image.astype(jnp.float32) * brightness, 0, 255)
    x = jnp.clip((x @ weights).mean() * (1 - contrast) + x * contrast, 0, 255)
    x = jnp.clip((x @ weights)[..., None] * (1 - saturation) + x * saturation, 0, 255)
    return jnp.rint(x).astype(jnp.uint8)


def _erased(image: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Cover a random rectangle of one image with its mean colour."""
    height, width, _ = image.shape
    happens, area, shape, down, across = jax.random.uniform(key, (5,))
    share = _ERASED_AREA[0] + (_ERASED_AREA[1] - _ERASED_AREA[0]) * area
    low, high = jnp.log(_ERASED_SHAPE[0]), jnp.log(_ERASED_SHAPE[1])
    ratio = jnp.exp(low + (high - low) * shape)
    h = jnp.clip(jnp.rint(jnp.sqrt(share * height * width * ratio)), 1, height)
    w = jnp.clip(jnp.rint(jnp.sqrt(share * height * width / ratio)), 1, width)
    top, left = jnp.floor(down * (height - h + 1)), jnp.floor(across * (width - w + 1))
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inside = (rows >= top) & (rows < top + h) & (columns >= left) & (columns < left + w)
    mean = jnp.rint(image.astype(jnp.float32).mean((0, 1))).astype(jnp.uint8)
    return jnp.where(inside[..., None] & (happens < probability), mean, image)
