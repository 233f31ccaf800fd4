"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) on the device: mix the images and labels of two examples."""

import jax
import jax.numpy as jnp


def mix(
    images: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    views: jax.Array,
    *,
    view_seed: int,
    mixup: float,
    cutmix: float,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Mix every example of a global batch with another one.

    Each example has a random key of its own. The keys give the examples a random order, and each example is mixed with
    the next one in that order. So the result depends on the view seed, the examples and their views, but not on how the
    batch is spread over devices and processes. The examples keep their places in the batch.

    Args:
      images: uint8 [b, S, S, 3], this device's part.
      labels: float32 [b, classes], rows that sum to 1.
      ids: uint32 or int32 [b], see `augment.augment`.
      views: int32 [b], see `augment.augment`.
      view_seed: config.data.view_seed.
      mixup: parameter α of the distribution of the share, Beta(α, α); 0 for no mixup.
      cutmix: the same for CutMix. If both are given, each example gets one of the two with probability ½.
      axis_name: name of the mapped axis, if the batch is spread over devices.

    Returns:
      (images uint8 [b, S, S, 3], labels float32 [b, classes]), mixed.
    """
    if not (mixup or cutmix):
        return images, labels
    keys = jax.vmap(lambda i, v: jax.random.fold_in(jax.random.fold_in(jax.random.key(view_seed), i), v))(
        ids.astype(jnp.uint32), views
    )
    rank = jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(key, 4), (), jnp.uint32))(keys)
    everything = (images, labels, rank)
    first = 0
    if axis_name is not None:
        everything = jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), everything)
        first = jax.lax.axis_index(axis_name) * len(images)
    all_images, all_labels, all_ranks = everything
    order = jnp.argsort(all_ranks)
    following = jnp.zeros_like(order).at[order].set(jnp.roll(order, -1))
    partner = jax.lax.dynamic_slice_in_dim(following, first, len(images))

    def one(image, label, key, other):
        kind, share_key, place = jax.random.split(jax.random.fold_in(key, 5), 3)
        cuts = jax.random.bernoulli(kind) if mixup and cutmix else jnp.asarray(bool(cutmix))
        alpha = jnp.where(cuts, cutmix or 1.0, mixup or 1.0)
        share = jax.random.beta(share_key, alpha, alpha)  # The share of the example itself.
        inside, kept = _rectangle(image.shape[:2], share, place)
        blended = image.astype(jnp.float32) * share + all_images[other].astype(jnp.float32) * (1 - share)
        pasted = jnp.where(inside[..., None], all_images[other], image)
        share = jnp.where(cuts, kept, share)
        mixed = jnp.where(cuts, pasted, jnp.rint(blended).astype(jnp.uint8))
        return mixed, label * share + all_labels[other] * (1 - share)

    return jax.vmap(one)(images, labels, keys, partner)


def _rectangle(size: tuple[int, int], share: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return (bool [H, W], a rectangle of about 1 − share of the area at a random point; the share outside it)."""
    height, width = size
    side = jnp.sqrt(1 - share)
    down, across = jax.random.uniform(key, (2,)) * jnp.array([height, width])
    rows, columns = jnp.arange(height)[:, None] + 0.5, jnp.arange(width)[None, :] + 0.5
    inside = (jnp.abs(rows - down) < side * height / 2) & (jnp.abs(columns - across) < side * width / 2)
    return inside, 1 - inside.mean()
