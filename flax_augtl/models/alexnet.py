"""AlexNet as torchvision has it: "One weird trick for parallelizing convolutional neural networks" (Krizhevsky 2014)."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.config.networks import Entry
from flax_augtl.models.base import SourceNetwork, check_images, steps
from flax_augtl.models.conv import convolve
from flax_augtl.models.layers import bias_in_float32, linear_bias_init, linear_init, rematerialised
from flax_augtl.models.parameters import Slot, conv_slots, dense_slots
from flax_augtl.models.pooling import adaptive_average_pool, max_pool

HIDDEN = 4096
POOLED = 6
FIRST_STRIDE, FIRST_PAD = 4, 2
# The window and the stride of every max-pooling.
POOL, POOL_STRIDE = 3, 2
# Of torchvision's convolutions; no VGG has these numbers.
_CONVOLUTIONS = frozenset(f"features.{index}.weight" for index in (0, 3, 6, 8, 10))


class ConvGroup(nn.Module):
    """A convolution "conv0" with a ReLU, then max-pooling where there is one."""

    width: int
    kernel: int
    stride: int
    pad: int
    pool: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Run the convolution, then the pooling."""
        conv = nn.Conv(
            self.width,
            (self.kernel, self.kernel),
            strides=(self.stride, self.stride),
            padding=((self.pad, self.pad), (self.pad, self.pad)),
            dtype=self.dtype,
            kernel_init=linear_init,
            bias_init=linear_bias_init(x.shape[-1] * self.kernel**2),
            conv_general_dilated=convolve,
            promote_dtype=bias_in_float32,
            name="conv0",
        )
        x = nn.relu(conv(x)).astype(self.dtype)
        return max_pool(x, POOL, POOL_STRIDE) if self.pool else x


class AlexNet(SourceNetwork):
    """AlexNet as a chain of layer groups: conv1 … conv5, fc6, fc7, fc8. It has no dropout, and no local normalisation.

    Attributes:
      widths: channels of conv1 … conv5.
      kernels: sides of their kernels.
      pools: whether each of them ends in max-pooling.
      hidden: units of fc6 and fc7.
    """

    CLASSIFIER: ClassVar[str] = "fc8"
    PUBLISHED_CLASSIFIER: ClassVar[str] = "classifier.6"
    BLOCK_TYPES: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv, nn.Dense)
    RELU_AFTER_BLOCK: ClassVar[bool] = True

    widths: tuple[int, ...] = (64, 192, 384, 256, 256)
    kernels: tuple[int, ...] = (11, 5, 3, 3, 3)
    pools: tuple[bool, ...] = (True, True, False, False, True)
    hidden: int = HIDDEN

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the layer groups, bottom to top."""
        stages = tuple(f"conv{i + 1}" for i in range(len(self.widths)))
        return (*stages, "fc6", "fc7") + (("fc8",) if self.num_classes else ())

    @property
    def smallest_image(self) -> int:
        """The side from which one pixel is left after the last pooling."""
        side = 1
        for kernel, stride, pad, pool in reversed(self.geometry()):
            side = (side - 1) * POOL_STRIDE + POOL if pool else side
            side = max((side - 1) * stride + kernel - 2 * pad, 1)
        return side

    @property
    def block_names(self) -> tuple[str, ...]:
        """The convolutions and dense layers, such as "conv1/conv0" and "fc6", "logits" last."""
        return (*self.torch_modules(), "logits")

    @nn.nowrap
    def geometry(self) -> list[tuple[int, int, int, bool]]:
        """Return (side of the kernel, stride, padding, whether max-pooling follows) of each convolution."""
        return [
            (kernel, 1 if i else FIRST_STRIDE, kernel // 2 if i else FIRST_PAD, pool)
            for i, (kernel, pool) in enumerate(zip(self.kernels, self.pools, strict=True))
        ]

    @nn.nowrap
    def slots(self) -> dict[str, Slot]:
        """Return the slot of every tensor by torchvision's name, in torchvision's order."""
        slots: dict[str, Slot] = {}
        # torchvision numbers every layer of `features` and `classifier`: ReLU, pooling and dropout too.
        index, inputs = 0, 3
        for i, (width, kernel, pool) in enumerate(zip(self.widths, self.kernels, self.pools, strict=True), 1):
            shape = (width, inputs, kernel, kernel)
            slots |= conv_slots(f"features.{index}", (f"conv{i}", "conv0"), shape, bias=True)
            index += 2 + pool
            inputs = width
        slots |= dense_slots("classifier.1", ("fc6",), self.hidden, inputs * POOLED**2)
        slots |= dense_slots("classifier.4", ("fc7",), self.hidden, self.hidden)
        if self.num_classes:
            slots |= dense_slots(self.PUBLISHED_CLASSIFIER, (self.CLASSIFIER,), self.num_classes, self.hidden)
        return slots

    @nn.nowrap
    def draw_conv(self, random: np.random.Generator, shape: tuple[int, ...], inputs: int) -> np.ndarray:
        """Draw uniformly within 1 / sqrt(inputs), PyTorch's default, which torchvision's AlexNet keeps."""
        return self.draw_dense(random, shape, inputs)

    @nn.nowrap
    def draw_dense(self, random: np.random.Generator, shape: tuple[int, ...], inputs: int) -> np.ndarray:
        """Draw a kernel or a bias uniformly within 1 / sqrt(inputs)."""
        return (2 * random.random(shape, np.float32) - 1) * np.float32(inputs**-0.5)

    @staticmethod
    def keras_layer(block: str) -> str:
        """Return the block itself: keras.applications has no AlexNet."""
        return block

    @staticmethod
    def recognises(names: Collection[str]) -> bool:
        """Tell whether the convolutions have the numbers of torchvision's."""
        found = {name for name in names if name.startswith("features.") and name.endswith(".weight")}
        return found == _CONVOLUTIONS

    @staticmethod
    def variant_of_tensors(names: Collection[str], entry: Entry) -> dict[str, Any]:
        """Return nothing: there is one AlexNet."""
        return {}

    @staticmethod
    def variant_of_paths(paths: Collection[tuple[str, ...]]) -> dict[str, Any]:
        """Return nothing: there is one AlexNet."""
        return {}

    @staticmethod
    def variant_notes(settings: Mapping[str, Any], entry: Entry) -> Iterator[str]:
        """Yield nothing: there is one AlexNet."""
        yield from ()

    @nn.compact
    def __call__(
        self, x: jax.Array, start: int = 0, stop: int | None = None, train_from: int | None = None
    ) -> jax.Array:
        """Run `groups[start:stop]`; see `SourceNetwork`.

        Returns:
          [N, H, W, C] after conv1 … conv4; [N, 36·C] after conv5, averaged to 6×6 and flattened channel first;
          [N, hidden] after fc6 and fc7; float32 logits [N, num_classes] after fc8.
        """
        if start == 0:
            check_images(x, self.smallest_image)
        for name, train in steps(self.groups, start, stop, train_from):
            if name.startswith("conv"):
                i = int(name.removeprefix("conv")) - 1
                group = rematerialised(ConvGroup, self.remat and train)(
                    self.widths[i], *self.geometry()[i], self.dtype, name=name
                )
                x = group(x, train)
                if i == len(self.widths) - 1:
                    # PyTorch flattens CHW, so fc6 of the published AlexNet expects its inputs in that order.
                    x = adaptive_average_pool(x, POOLED).transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
                continue
            units = self.hidden
            if name == "fc8":
                assert self.num_classes, "without classes there is no group fc8"
                units = self.num_classes
            dense = nn.Dense(
                units,
                dtype=self.dtype,
                kernel_init=linear_init,
                bias_init=linear_bias_init(x.shape[-1]),
                promote_dtype=bias_in_float32,
                name=name,
            )
            x = dense(x)
            x = x.astype(jnp.float32) if name == "fc8" else nn.relu(x).astype(self.dtype)
        return x
