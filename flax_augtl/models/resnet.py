"""Residual networks: torchvision's ResNet-18 … 152, their published variants, and the small CIFAR type."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flax_augtl.config.networks import EXPANSION
from flax_augtl.models.base import SourceNetwork, check_images, steps
from flax_augtl.models.layers import batch_norm, conv, linear_bias_init, linear_init, rematerialised
from flax_augtl.models.pooling import max_pool

SHORTCUTS = ("projection", "pad", "pad_end")


def padded_shortcut(x: jax.Array, features: int, stride: int, shortcut: str) -> jax.Array:
    """Return the original paper's shortcut without parameters (option A): every `stride`-th pixel, zeros in new channels.

    Args:
      x: [N, H, W, C].
      features: number of output channels.
      stride: of the block.
      shortcut: "pad" puts half of the new channels before and half behind the old ones, as the usual PyTorch code does;
        "pad_end" puts all of them behind.
    """
    new = features - x.shape[-1]
    before = new // 2 if shortcut == "pad" else 0
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (before, new - before)))


class Block(nn.Module):
    """One residual block, [N, H, W, C] → [N, H / stride, W / stride, width · expansion].

    `basic` is 3×3, 3×3; `bottleneck` is 1×1, 3×3, 1×1 with the stride on the 3×3 (v1.5, torchvision) or on the
    first 1×1 (v1, Keras). Where the shape changes, the shortcut is a 1×1 convolution with batch norm if `shortcut` is
    "projection", else `padded_shortcut`.
    """

    kind: str
    width: int
    stride: int
    v1_stride: bool
    conv_bias: bool
    epsilon: float
    dtype: Any
    axis_name: str | None
    shortcut: str = "projection"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Run the block."""

        def unit(y, name, features, size, stride):
            y = conv(features, size, stride, bias=self.conv_bias, dtype=self.dtype, name=name)(y)
            norm_name = name.replace("conv", "bn")
            norm = batch_norm(train, epsilon=self.epsilon, dtype=self.dtype, axis_name=self.axis_name, name=norm_name)
            return norm(y)

        if self.kind == "basic":
            y = nn.relu(unit(x, "conv1", self.width, 3, self.stride))
            y = unit(y, "conv2", self.width, 3, 1)
        else:
            first, second = (self.stride, 1) if self.v1_stride else (1, self.stride)
            y = nn.relu(unit(x, "conv1", self.width, 1, first))
            y = nn.relu(unit(y, "conv2", self.width, 3, second))
            y = unit(y, "conv3", self.width * EXPANSION["bottleneck"], 1, 1)
        if self.shortcut != "projection":
            x = padded_shortcut(x, y.shape[-1], self.stride, self.shortcut)
        elif self.stride != 1 or x.shape[-1] != y.shape[-1]:
            x = unit(x, "downsample_conv", y.shape[-1], 1, self.stride)
        return nn.relu(x.astype(y.dtype) + y)


class Stem(nn.Module):
    """The first layers. `imagenet`: 7×7 at stride 2, then max-pooling at stride 2. `cifar`: 3×3 at stride 1."""

    kind: str
    width: int
    conv_bias: bool
    epsilon: float
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Run the first layers."""
        size, stride = (7, 2) if self.kind == "imagenet" else (3, 1)
        x = conv(self.width, size, stride, bias=self.conv_bias, dtype=self.dtype, name="conv1")(x)
        norm = batch_norm(train, epsilon=self.epsilon, dtype=self.dtype, axis_name=self.axis_name, name="bn1")
        x = nn.relu(norm(x))
        return max_pool(x, 3, 2, pad=1) if self.kind == "imagenet" else x


class Stage(nn.Module):
    """Blocks "0", "1", … of one width; the first one carries the stride."""

    blocks: int
    stride: int
    settings: tuple[tuple[str, Any], ...]
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Run the blocks, bottom to top."""
        block = rematerialised(Block, self.remat and train)
        for i in range(self.blocks):
            x = block(stride=self.stride if i == 0 else 1, name=str(i), **dict(self.settings))(x, train)
        return x


class ResNet(SourceNetwork):
    """A residual network as a chain of layer groups: stem, layer1 … layerK, fc.

    Attributes:
      stage_sizes: blocks in each of layer1 … layerK.
      block: "basic" or "bottleneck".
      widths: channels of the 3×3 convolutions in each stage; the stem has widths[0].
      stem: "imagenet" or "cifar".
      v1_stride: a bottleneck's stride is on its first 1×1 convolution instead of its 3×3.
      conv_bias: convolutions have biases (Keras).
      epsilon: of every batch norm.
      by_block: every residual block is a layer group, "layer1.0", "layer1.1", …; see `models.blocks`.
      shortcut: where the shape changes, "projection" (1×1 convolution with batch norm), or without parameters "pad"
        or "pad_end"; see `padded_shortcut`.
    """

    stage_sizes: tuple[int, ...]
    block: str = "basic"
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: str = "imagenet"
    v1_stride: bool = False
    conv_bias: bool = False
    epsilon: float = 1e-5
    by_block: bool = False
    shortcut: str = "projection"

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the layer groups, bottom to top."""
        stages = tuple(f"layer{i + 1}" for i in range(len(self.stage_sizes)))
        if self.by_block:
            stages = tuple(
                f"{stage}.{j}" for stage, size in zip(stages, self.stage_sizes, strict=True) for j in range(size)
            )
        return ("stem", *stages) + (("fc",) if self.num_classes else ())

    @nn.compact
    def __call__(
        self, x: jax.Array, start: int = 0, stop: int | None = None, train_from: int | None = None
    ) -> jax.Array:
        """Run `groups[start:stop]`; see `SourceNetwork`.

        Returns:
          [N, H, W, C] after the stem and the lower stages, [N, C] after the last stage (its global average), float32
          logits [N, num_classes] after fc.
        """
        if start == 0:
            check_images(x, 1)
        common = dict(conv_bias=self.conv_bias, epsilon=self.epsilon, dtype=self.dtype, axis_name=self.axis_name)
        for name, train in steps(self.groups, start, stop, train_from):
            if name == "stem":
                stem = rematerialised(Stem, self.remat and train)
                x = stem(kind=self.stem, width=self.widths[0], name=name, **common)(x, train)
            elif name == "fc":
                assert self.num_classes, "without classes there is no group fc"
                fc = nn.Dense(
                    self.num_classes,
                    dtype=self.dtype,
                    kernel_init=linear_init,
                    bias_init=linear_bias_init(x.shape[-1]),
                    name=name,
                )
                x = fc(x).astype(jnp.float32)
            else:
                stage, _, block = name.removeprefix("layer").partition(".")
                i = int(stage) - 1
                settings = dict(
                    kind=self.block, width=self.widths[i], v1_stride=self.v1_stride, shortcut=self.shortcut, **common
                )
                stride = 1 if i == 0 else 2
                if block:
                    unit = rematerialised(Block, self.remat and train)
                    x = unit(stride=stride if block == "0" else 1, name=name, **settings)(x, train)
                else:
                    x = Stage(self.stage_sizes[i], stride, tuple(settings.items()), self.remat, name=name)(x, train)
                if i == len(self.stage_sizes) - 1 and block in ("", str(self.stage_sizes[i] - 1)):
                    x = x.mean((1, 2))
        return x
