"""Augmentation on the device, inside the compiled step.

Every draw is folded from (view seed, example id, view), so it does not depend on the batch, device or process that an
example meets. Each kind of change has its own key: to switch one on does not change what another draws.
"""

import jax
import jax.numpy as jnp

_GREY = (0.299, 0.587, 0.114)  # What the eye makes of red, green and blue.
_ERASED_AREA = (0.02, 0.33)
_ERASED_SHAPE = (0.3, 3.3)


def augment(
    images: jax.Array,
    ids: jax.Array,
    views: jax.Array,
    *,
    view_seed: int,
    flip: bool,
    shift: int,
    jitter: float = 0.0,
    erase: float = 0.0,
) -> jax.Array:
    """Flip, shift, change the colours and erase a part of each picture, at random.

    Args:
        images: uint8 [b, S, S, 3].
        ids: uint32 or int32 [b], the examples' draw ids.
        views: int32 [b].
        view_seed: of the study, not of the run.
        flip: mirror left and right with probability ½.
        shift: largest move in pixels, each way; what comes in at the edge is black. 0 for none.
        jitter: brightness, contrast and saturation are each multiplied by a factor from 1 − jitter to 1 + jitter.
        erase: probability that a rectangle of 2 to 33 % of the area takes the picture's mean colour.

    Returns:
        uint8 [b, S, S, 3].
    """
    if not (flip or shift or jitter or erase):
        return images
    root = jax.random.key(view_seed)

    def one(image, number, view):
        key = jax.random.fold_in(jax.random.fold_in(root, number), view)
        mirror, move = jax.random.split(key)
        if flip:
            image = jnp.where(jax.random.bernoulli(mirror), image[:, ::-1], image)
        if shift:
            corner = jax.random.randint(move, (2,), 0, 2 * shift + 1)
            padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)))
            image = jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape)
        if jitter:
            image = _jittered(image, jax.random.fold_in(key, 2), jitter)
        if erase:
            image = _erased(image, jax.random.fold_in(key, 3), erase)
        return image

    return jax.vmap(one)(images, ids.astype(jnp.uint32), views)


def _jittered(image: jax.Array, key: jax.Array, jitter: float) -> jax.Array:
    """Brightness, then contrast, then saturation; one picture."""
    brightness, contrast, saturation = jax.random.uniform(key, (3,), minval=max(0.0, 1 - jitter), maxval=1 + jitter)
    weights = jnp.array(_GREY)
    x = jnp.clip(image.astype(jnp.float32) * brightness, 0, 255)
    x = jnp.clip((x @ weights).mean() * (1 - contrast) + x * contrast, 0, 255)
    x = jnp.clip((x @ weights)[..., None] * (1 - saturation) + x * saturation, 0, 255)
    return jnp.rint(x).astype(jnp.uint8)


def _erased(image: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Cover a random rectangle with the mean colour; one picture."""
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
