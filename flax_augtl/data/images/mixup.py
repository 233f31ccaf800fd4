"""Mixup and CutMix on the device: images and labels of two examples in one (Zhang et al. 2018; Yun et al. 2019)."""

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
    """Mix every example of a global batch with another of it.

    Who is mixed with whom, and how much, is a function of the view seed and of the examples and views in the global
    batch, not of how they are spread over devices and processes: the examples are put in a random order by keys of
    their own, and each takes the next. The order in the batch stays.

    Args:
        images: uint8 [b, S, S, 3], this device's part.
        labels: float32 [b, classes], rows that sum to 1.
        ids, views: uint32 or int32 [b], and int32 [b]; see `augment.augment`.
        view_seed: of the study.
        mixup: parameter α of the share's distribution, Beta(α, α); 0 for no mixup.
        cutmix: the same for CutMix. With both, each example is drawn one of the two, with probability ½.
        axis_name: of the mapped axis, if the batch is spread over devices.

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
        share = jax.random.beta(share_key, alpha, alpha)  # Of the example itself.
        inside, kept = _rectangle(image.shape[:2], share, place)
        blended = image.astype(jnp.float32) * share + all_images[other].astype(jnp.float32) * (1 - share)
        pasted = jnp.where(inside[..., None], all_images[other], image)
        share = jnp.where(cuts, kept, share)
        mixed = jnp.where(cuts, pasted, jnp.rint(blended).astype(jnp.uint8))
        return mixed, label * share + all_labels[other] * (1 - share)

    return jax.vmap(one)(images, labels, keys, partner)


def _rectangle(size: tuple[int, int], share: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(bool [H, W], a rectangle of 1 − share of the area around a random point; the share that is left outside)."""
    height, width = size
    side = jnp.sqrt(1 - share)
    down, across = jax.random.uniform(key, (2,)) * jnp.array([height, width])
    rows, columns = jnp.arange(height)[:, None] + 0.5, jnp.arange(width)[None, :] + 0.5
    inside = (jnp.abs(rows - down) < side * height / 2) & (jnp.abs(columns - across) < side * width / 2)
    return inside, 1 - inside.mean()
