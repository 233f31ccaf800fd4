"""VGG-11 … 19, with and without batch norm, as torchvision has them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flax_augtl.models.base import SourceNetwork, check_images, steps
from flax_augtl.models.layers import batch_norm, conv, rematerialised
from flax_augtl.models.pooling import adaptive_average_pool, max_pool

HIDDEN = 4096
POOLED = 7


class ConvGroup(nn.Module):
    """3×3 convolutions "conv0", "conv1", … of one width, each with a ReLU, then 2×2 max-pooling."""

    convs: int
    width: int
    batch_norm: bool
    epsilon: float
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Run the convolutions, then the pooling."""
        for i in range(self.convs):
            x = conv(self.width, 3, bias=True, dtype=self.dtype, name=f"conv{i}")(x)
            if self.batch_norm:
                norm = batch_norm(
                    train, epsilon=self.epsilon, dtype=self.dtype, axis_name=self.axis_name, name=f"bn{i}"
                )
                x = norm(x)
            x = nn.relu(x)
        return max_pool(x, 2, 2)


class VGG(SourceNetwork):
    """A VGG network as a chain of layer groups: conv1 … conv5, fc6, fc7, fc8. It has no dropout.

    Attributes:
      convs: convolutions in each of conv1 … conv5.
      batch_norm: a batch norm after every convolution.
      widths: channels of conv1 … conv5.
      hidden: units of fc6 and fc7.
      epsilon: of every batch norm.
      global_pool: conv5 is averaged over space, and fc6 and fc7 are left out, as in Keras' networks without their top.
    """

    convs: tuple[int, ...]
    batch_norm: bool = False
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = HIDDEN
    epsilon: float = 1e-5
    global_pool: bool = False

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the layer groups, bottom to top."""
        stages = tuple(f"conv{i + 1}" for i in range(len(self.convs)))
        dense = () if self.global_pool else ("fc6", "fc7")
        return (*stages, *dense) + (("fc8",) if self.num_classes else ())

    @nn.compact
    def __call__(
        self, x: jax.Array, start: int = 0, stop: int | None = None, train_from: int | None = None
    ) -> jax.Array:
        """Run `groups[start:stop]`; see `SourceNetwork`.

        Returns:
          [N, H, W, C] after conv1 … conv4; [N, 49·C] after conv5, averaged to 7×7 and flattened channel first (with
          `global_pool` [N, C], averaged to 1×1); [N, hidden] after fc6 and fc7; float32 logits [N, num_classes] after
          fc8.
        """
        if start == 0:
            check_images(x, 2 ** len(self.convs))
        for name, train in steps(self.groups, start, stop, train_from):
            if name.startswith("conv"):
                i = int(name.removeprefix("conv")) - 1
                group = rematerialised(ConvGroup, self.remat and train)(
                    self.convs[i], self.widths[i], self.batch_norm, self.epsilon, self.dtype, self.axis_name, name=name
                )
                x = group(x, train)
                if i == len(self.convs) - 1 and self.global_pool:
                    x = x.mean((1, 2))
                elif i == len(self.convs) - 1:
                    # PyTorch flattens CHW, so fc6 of every published VGG expects its inputs in that order.
                    x = adaptive_average_pool(x, POOLED).transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
                continue
            units = self.hidden
            if name == "fc8":
                assert self.num_classes, "without classes there is no group fc8"
                units = self.num_classes
            dense = nn.Dense(units, dtype=self.dtype, kernel_init=nn.initializers.normal(0.01), name=name)
            x = dense(x)
            x = x.astype(jnp.float32) if name == "fc8" else nn.relu(x)
        return x
