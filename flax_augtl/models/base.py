"""What every source network is: a chain of named layer groups, bottom to top, that can be cut at any of them."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flax_augtl.errors import UserError


class SourceNetwork(nn.Module, kw_only=True):
    """The base class of all source networks.

    Attributes:
      num_classes: outputs of the classification layer; None leaves that layer out.
      dtype: of the computation; parameters are float32.
      axis_name: mapped axis over which training batch statistics are averaged.
      remat: keep only what enters a training block for the backward pass, and compute its inside again there.
    """

    num_classes: int | None = 1000
    dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the layer groups, bottom to top; the classification layer is the last one."""
        raise NotImplementedError

    def __call__(
        self, x: jax.Array, start: int = 0, stop: int | None = None, train_from: int | None = None
    ) -> jax.Array:
        """Run `groups[start:stop]`.

        Args:
          x: normalised images [N, H, W, 3] if start is 0, else the output of `groups[:start]`.
          start: index of the first group to run.
          stop: index after the last group to run; None is the top.
          train_from: groups from this index on run in training mode; None is inference everywhere.

        Returns:
          The output of the last group: float32 logits [N, num_classes] after the classification layer.
        """
        raise NotImplementedError


def steps(groups: tuple[str, ...], start: int, stop: int | None, train_from: int | None) -> Iterator[tuple[str, bool]]:
    """Yield (group name, whether it runs in training mode) for `groups[start:stop]`.

    Args:
      groups: the layer groups of the network, bottom to top.
      start: index of the first group to run.
      stop: index after the last group to run; None is the top.
      train_from: groups from this index on run in training mode; None is inference everywhere.

    Raises:
      UserError: start and stop are not 0 ≤ start ≤ stop ≤ number of groups.
    """
    stop = len(groups) if stop is None else stop
    if not 0 <= start <= stop <= len(groups):
        raise UserError(
            f"cannot run the layer groups from {start} to {stop}: the network has {len(groups)} ({', '.join(groups)})"
        )
    for index in range(start, stop):
        yield groups[index], train_from is not None and index >= train_from


def check_images(x: jax.Array, smallest: int) -> None:
    """Check that `x` is a floating-point batch of colour images [N, H, W, 3] that are large enough.

    Raises:
      UserError: it is not.
    """
    if x.ndim != 4 or x.shape[-1] != 3:
        raise UserError(f"expected a batch of images [N, H, W, 3], got an array of shape {tuple(x.shape)}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"expected normalised images of a floating-point dtype, got {x.dtype}: preprocess them first")
    if min(x.shape[1:3]) < smallest:
        raise UserError(f"images of {x.shape[1]} x {x.shape[2]} pixels are too small: {smallest} is the least")
