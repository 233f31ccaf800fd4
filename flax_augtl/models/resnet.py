"""Residual networks: torchvision's ResNet-18 … 152, their published variants, and the small CIFAR type."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.config.networks import EXPANSION, Entry
from flax_augtl.models.base import SourceNetwork, check_images, steps
from flax_augtl.models.layers import batch_norm, bias_in_float32, conv, linear_bias_init, linear_init, rematerialised
from flax_augtl.models.parameters import Slot, conv_slots, dense_slots, norm_slots
from flax_augtl.models.pooling import max_pool


def padded_shortcut(x: jax.Array, features: int, stride: int, shortcut: str) -> jax.Array:
    """Return the paper's shortcut without parameters (option A): every `stride`-th pixel, zeros in new channels.

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

    block: str
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
            y = conv(features, size, stride, bias=self.conv_bias, dtype=self.dtype, name=name)(y).astype(self.dtype)
            norm_name = name.replace("conv", "bn")
            norm = batch_norm(train, epsilon=self.epsilon, dtype=self.dtype, axis_name=self.axis_name, name=norm_name)
            return norm(y)

        if self.block == "basic":
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

    stem: str
    width: int
    conv_bias: bool
    epsilon: float
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Run the first layers."""
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = conv(self.width, size, stride, bias=self.conv_bias, dtype=self.dtype, name="conv1")(x)
        x = x.astype(self.dtype)
        norm = batch_norm(train, epsilon=self.epsilon, dtype=self.dtype, axis_name=self.axis_name, name="bn1")
        x = nn.relu(norm(x))
        return max_pool(x, 3, 2, pad=1) if self.stem == "imagenet" else x


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

    CLASSIFIER: ClassVar[str] = "fc"
    PUBLISHED_CLASSIFIER: ClassVar[str] = "fc"
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "block": tuple(EXPANSION),
        "stem": ("imagenet", "cifar"),
        "shortcut": ("projection", "pad", "pad_end"),
    }
    KERAS_SETTINGS: ClassVar[Mapping[str, Any]] = {"epsilon": 1.001e-5, "v1_stride": True}
    BLOCK_TYPES: ClassVar[tuple[type[nn.Module], ...]] = (Stem, Block)

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

    @property
    def smallest_image(self) -> int:
        """One pixel: the padded convolutions read images of any size."""
        return 1

    @property
    def block_names(self) -> tuple[str, ...]:
        """The stem and the residual blocks, "logits" last."""
        blocks = [f"layer{i + 1}/{j}" for i, size in enumerate(self.stage_sizes) for j in range(size)]
        return ("stem", *blocks, "logits")

    @nn.nowrap
    def slots(self) -> dict[str, Slot]:
        """Return the slot of every tensor by torchvision's name, in torchvision's order."""
        slots: dict[str, Slot] = {}

        def unit(published_conv: str, published_norm: str, path: tuple[str, ...], name: str, shape: tuple[int, ...]):
            slots.update(conv_slots(published_conv, (*path, name), shape, bias=self.conv_bias))
            slots.update(norm_slots(published_norm, (*path, name.replace("conv", "bn")), shape[0]))

        size = 7 if self.stem == "imagenet" else 3
        inputs = self.widths[0]
        unit("conv1", "bn1", ("stem",), "conv1", (inputs, 3, size, size))
        for i, (blocks, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            outputs = width * EXPANSION[self.block]
            for j in range(blocks):
                name, path = f"layer{i + 1}.{j}", (f"layer{i + 1}", str(j))
                if self.block == "basic":
                    shapes = [(width, inputs, 3, 3), (width, width, 3, 3)]
                else:
                    shapes = [(width, inputs, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1)]
                for k, shape in enumerate(shapes, 1):
                    unit(f"{name}.conv{k}", f"{name}.bn{k}", path, f"conv{k}", shape)
                if j == 0 and self.shortcut == "projection" and (i > 0 or inputs != outputs):
                    shape = (outputs, inputs, 1, 1)
                    unit(f"{name}.downsample.0", f"{name}.downsample.1", path, "downsample_conv", shape)
                inputs = outputs
        if self.num_classes:
            slots |= dense_slots(self.PUBLISHED_CLASSIFIER, (self.CLASSIFIER,), self.num_classes, inputs)
        return slots

    @nn.nowrap
    def draw_dense(self, random: np.random.Generator, shape: tuple[int, ...], inputs: int) -> np.ndarray:
        """Draw uniformly within 1 / sqrt(inputs), as `linear_init` and `linear_bias_init` do."""
        return (2 * random.random(shape, np.float32) - 1) * np.float32(inputs**-0.5)

    @nn.nowrap
    def torch_modules(self) -> dict[str, str]:
        """Return torchvision's module for each block but "logits"."""
        return {name: "maxpool" if name == "stem" else name.replace("/", ".") for name in self.block_names[:-1]}

    @staticmethod
    def keras_layer(block: str) -> str:
        """Return the layer of keras.applications for a block but "logits"."""
        if block == "stem":
            return "pool1_pool"
        stage, number = block.removeprefix("layer").split("/")
        return f"conv{int(stage) + 1}_block{int(number) + 1}_out"

    @staticmethod
    def recognises(names: Collection[str]) -> bool:
        """Tell whether tensors have the names of a first residual block."""
        return any(name.startswith("layer1.0.") for name in names)

    @staticmethod
    def variant_of_tensors(names: Collection[str], entry: Entry) -> dict[str, Any]:
        """Return conv_bias and shortcut if they are not the usual ones."""
        found: dict[str, Any] = {"conv_bias": True} if "conv1.bias" in names else {}
        # Only small ones were published without projections: a larger one without them is incomplete.
        if entry.image_size == 32 and not any(".downsample." in name for name in names):
            found["shortcut"] = "pad"
        return found

    @staticmethod
    def variant_of_paths(paths: Collection[tuple[str, ...]]) -> dict[str, Any]:
        """Return conv_bias and shortcut."""
        projects = any("downsample_conv" in path for path in paths)
        return {
            "conv_bias": ("params", "stem", "conv1", "bias") in paths,
            "shortcut": "projection" if projects else "pad",
        }

    @staticmethod
    def variant_notes(settings: Mapping[str, Any], entry: Entry) -> Iterator[str]:
        """Yield a sentence about padded shortcuts and about a stem for small images."""
        if settings.get("shortcut") == "pad":
            yield (
                "its shortcuts have no parameters: they take every second pixel and add zeros, half of them before and "
                "half behind the channels, as the usual PyTorch code does."
            )
        if settings.get("stem") == "cifar" and entry.settings.get("stem") != "cifar":
            yield "its first convolution is 3×3, at stride 1 and without pooling behind it, as in networks for CIFAR."

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
            check_images(x, self.smallest_image)
        common = dict(conv_bias=self.conv_bias, epsilon=self.epsilon, dtype=self.dtype, axis_name=self.axis_name)
        for name, train in steps(self.groups, start, stop, train_from):
            if name == "stem":
                stem = rematerialised(Stem, self.remat and train)
                x = stem(stem=self.stem, width=self.widths[0], name=name, **common)(x, train)
            elif name == "fc":
                assert self.num_classes, "without classes there is no group fc"
                fc = nn.Dense(
                    self.num_classes,
                    dtype=self.dtype,
                    kernel_init=linear_init,
                    bias_init=linear_bias_init(x.shape[-1]),
                    promote_dtype=bias_in_float32,
                    name=name,
                )
                x = fc(x).astype(jnp.float32)
            else:
                stage, _, block = name.removeprefix("layer").partition(".")
                i = int(stage) - 1
                settings = dict(
                    block=self.block, width=self.widths[i], v1_stride=self.v1_stride, shortcut=self.shortcut, **common
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
