"""VGG-11 … 19, with and without batch norm, as torchvision has them."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.config.networks import Entry
from flax_augtl.models.alexnet import AlexNet
from flax_augtl.models.base import SourceNetwork, check_images, steps
from flax_augtl.models.layers import batch_norm, bias_in_float32, conv, rematerialised
from flax_augtl.models.parameters import Slot, conv_slots, dense_slots, norm_slots
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
            x = conv(self.width, 3, bias=True, dtype=self.dtype, name=f"conv{i}")(x).astype(self.dtype)
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

    CLASSIFIER: ClassVar[str] = "fc8"
    PUBLISHED_CLASSIFIER: ClassVar[str] = "classifier.6"
    BLOCK_TYPES: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv, nn.Dense)
    RELU_AFTER_BLOCK: ClassVar[bool] = True

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

    @property
    def smallest_image(self) -> int:
        """The side that the pooling after each group of convolutions halves to one pixel."""
        return 2 ** len(self.convs)

    @property
    def block_names(self) -> tuple[str, ...]:
        """The convolutions and dense layers, such as "conv1/conv0" and "fc6", "logits" last."""
        return (*self.torch_modules(), "logits")

    @nn.nowrap
    def slots(self) -> dict[str, Slot]:
        """Return the slot of every tensor by torchvision's name, in torchvision's order."""
        slots: dict[str, Slot] = {}
        # torchvision numbers every layer of `features`, those without tensors too: convolution, batch norm, ReLU, pool.
        index, inputs = 0, 3
        for i, (convs, width) in enumerate(zip(self.convs, self.widths, strict=True)):
            for j in range(convs):
                shape = (width, inputs, 3, 3)
                slots |= conv_slots(f"features.{index}", (f"conv{i + 1}", f"conv{j}"), shape, bias=True)
                if self.batch_norm:
                    slots |= norm_slots(f"features.{index + 1}", (f"conv{i + 1}", f"bn{j}"), width)
                index += 3 if self.batch_norm else 2
                inputs = width
            index += 1
        if not self.global_pool:
            slots |= dense_slots("classifier.0", ("fc6",), self.hidden, inputs * POOLED**2)
            slots |= dense_slots("classifier.3", ("fc7",), self.hidden, self.hidden)
            inputs = self.hidden
        if self.num_classes:
            slots |= dense_slots(self.PUBLISHED_CLASSIFIER, (self.CLASSIFIER,), self.num_classes, inputs)
        return slots

    @nn.nowrap
    def draw_dense(self, random: np.random.Generator, shape: tuple[int, ...], inputs: int) -> np.ndarray:
        """Draw a kernel from a normal distribution with standard deviation 0.01; biases are zero."""
        if len(shape) == 1:
            return np.zeros(shape, np.float32)
        return random.standard_normal(shape, np.float32) * np.float32(0.01)

    @staticmethod
    def keras_layer(block: str) -> str:
        """Return the layer of keras.applications for a block but "logits"."""
        group, _, conv_name = block.partition("/")
        dense = {"fc6": "fc1", "fc7": "fc2"}
        return dense.get(group) or f"block{group.removeprefix('conv')}_conv{int(conv_name.removeprefix('conv')) + 1}"

    @staticmethod
    def recognises(names: Collection[str]) -> bool:
        """Tell whether tensors have the names of convolutions in a Sequential."""
        return any(re.match(r"features\.\d+\.weight", name) for name in names) and not AlexNet.recognises(names)

    @staticmethod
    def variant_of_tensors(names: Collection[str], entry: Entry) -> dict[str, Any]:
        """Return global_pool if there are no dense layers below the classification layer."""
        dense = any(name.startswith("classifier.") and not name.startswith("classifier.6.") for name in names)
        return {} if dense else {"global_pool": True}

    @staticmethod
    def variant_of_paths(paths: Collection[tuple[str, ...]]) -> dict[str, Any]:
        """Return global_pool."""
        return {"global_pool": not any("fc6" in path for path in paths)}

    @staticmethod
    def variant_notes(settings: Mapping[str, Any], entry: Entry) -> Iterator[str]:
        """Yield a sentence about a network without fc6 and fc7."""
        if settings.get("global_pool"):
            yield "it has no fc6 and fc7: the head reads conv5, averaged over space."

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
            check_images(x, self.smallest_image)
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
            dense = nn.Dense(
                units,
                dtype=self.dtype,
                kernel_init=nn.initializers.normal(0.01),
                promote_dtype=bias_in_float32,
                name=name,
            )
            x = dense(x)
            x = x.astype(jnp.float32) if name == "fc8" else nn.relu(x).astype(self.dtype)
        return x
