"""Augmentation on the device, inside the compiled step.

Every draw is folded from (view seed, example id, view), so it does not depend on the batch, device or process that an
example meets.
"""

import jax
import jax.numpy as jnp


def augment(
    images: jax.Array, ids: jax.Array, views: jax.Array, *, view_seed: int, flip: bool, shift: int
) -> jax.Array:
    """Flip and shift each picture at random.

    Args:
        images: uint8 [b, S, S, 3].
        ids: uint32 or int32 [b], the examples' draw ids.
        views: int32 [b].
        view_seed: of the study, not of the run.
        flip: mirror left and right with probability ½.
        shift: largest move in pixels, each way; what comes in at the edge is black. 0 for none.

    Returns:
        uint8 [b, S, S, 3].
    """
    if not flip and not shift:
        return images
    root = jax.random.key(view_seed)

    def one(image, number, view):
        mirror, move = jax.random.split(jax.random.fold_in(jax.random.fold_in(root, number), view))
        if flip:
            image = jnp.where(jax.random.bernoulli(mirror), image[:, ::-1], image)
        if shift:
            corner = jax.random.randint(move, (2,), 0, 2 * shift + 1)
            padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)))
            image = jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape)
        return image

    return jax.vmap(one)(images, ids.astype(jnp.uint32), views)
