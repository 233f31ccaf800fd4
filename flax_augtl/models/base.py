"""What it means to run a part of a network: a chain of named layer groups, bottom to top."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from flax_augtl.errors import UserError


def steps(groups: tuple[str, ...], start: int, stop: int | None, train_from: int | None) -> Iterator[tuple[str, bool]]:
    """Yield (group name, whether it runs in training mode) for `groups[start:stop]`.

    Args:
        groups: the layer groups of the network, bottom to top.
        start: index of the first group to run.
        stop: index after the last group to run; None is the top.
        train_from: groups of this index and above train; None is inference everywhere.

    Raises:
        ValueError: start and stop are not 0 ≤ start ≤ stop ≤ number of groups.
    """
    stop = len(groups) if stop is None else stop
    if not 0 <= start <= stop <= len(groups):
        raise UserError(
            f"cannot run the layer groups from {start} to {stop}: the network has {len(groups)} ({', '.join(groups)})"
        )
    for index in range(start, stop):
        yield groups[index], train_from is not None and index >= train_from


def check_images(x: jax.Array, smallest: int) -> None:
    """Raise ValueError unless `x` is a floating-point batch of colour images [N, H, W, 3] that is large enough."""
    if x.ndim != 4 or x.shape[-1] != 3:
        raise UserError(f"expected a batch of images [N, H, W, 3], got an array of shape {tuple(x.shape)}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"expected normalised images of a floating-point dtype, got {x.dtype}: preprocess them first")
    if min(x.shape[1:3]) < smallest:
        raise UserError(f"images of {x.shape[1]} x {x.shape[2]} pixels are too small: {smallest} is the least")
