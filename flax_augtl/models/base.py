"""What every source network is: a chain of named layer groups, bottom to top, that can be cut at any of them."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.config.networks import Entry
from flax_augtl.errors import UserError
from flax_augtl.models.parameters import Slot


class SourceNetwork(nn.Module, kw_only=True):
    """The base class of all source networks; everything that the package asks of a network is here.

    To add a network, write a subclass in a module of its own and define every member that raises NotImplementedError.
    Then add the class to `FAMILIES` in `models.registry`, its names to `NETWORKS` in `config.networks`, and a case to
    `tests/families.py`, which the tests of all networks use.

    A network keeps these rules:

    - The top-level keys of its variables are its layer groups: freezing and cutting go by them.
    - `groups[start:stop]` on the output of `groups[:start]` computes what the whole network computes.
    - The layer group below the classification layer returns vectors [N, C].
    - Only groups from `train_from` on use batch statistics; inference treats every image on its own.
    - Parameters, running statistics and logits are float32, whatever `dtype` is.

    Class attributes:
      CLASSIFIER: layer group of the classification layer.
      PUBLISHED_CLASSIFIER: its published name, before ".weight" and ".bias".
      CHOICES: the possible values of fields that are names.
      KERAS_SETTINGS: fields in which the networks of keras.applications differ from the usual ones.
      BLOCK_TYPES: modules whose outputs `--verify` compares.
      RELU_AFTER_BLOCK: a ReLU follows the outputs of these modules.

    Attributes:
      num_classes: outputs of the classification layer; None leaves that layer out.
      dtype: of the computation; parameters are float32.
      axis_name: mapped axis over which training batch statistics are averaged.
      remat: keep only what enters a training block for the backward pass, and compute its inside again there.
    """

    CLASSIFIER: ClassVar[str]
    PUBLISHED_CLASSIFIER: ClassVar[str]
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    KERAS_SETTINGS: ClassVar[Mapping[str, Any]] = {}
    BLOCK_TYPES: ClassVar[tuple[type[nn.Module], ...]]
    RELU_AFTER_BLOCK: ClassVar[bool] = False

    num_classes: int | None = 1000
    dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the layer groups, bottom to top; the classification layer is the last one."""
        raise NotImplementedError

    @property
    def smallest_image(self) -> int:
        """The side in pixels of the smallest image that the network can read."""
        raise NotImplementedError

    @property
    def block_names(self) -> tuple[str, ...]:
        """The names of the blocks that `--verify` compares, bottom to top, "logits" last.

        The others are paths of modules of `BLOCK_TYPES`, such as "layer1/0".
        """
        raise NotImplementedError

    @nn.nowrap
    def slots(self) -> dict[str, Slot]:
        """Return the slot of every tensor by its published name, in the published order.

        They are written down rather than traced from the module, since tracing a deep network takes long.
        """
        raise NotImplementedError

    @nn.nowrap
    def draw_conv(self, random: np.random.Generator, shape: tuple[int, ...], inputs: int) -> np.ndarray:
        """Draw the initial values of a convolution, by default torchvision's: normal kernels [H, W, in, out], no bias.

        The standard deviation keeps the variance of the gradient through a ReLU.

        Args:
          random: generator of random numbers.
          shape: of the kernel, or of the bias, [out].
          inputs: of one output: channels times positions of the kernel.

        Returns:
          A float32 array.
        """
        if len(shape) == 1:
            return np.zeros(shape, np.float32)
        height, width, _, outputs = shape
        return random.standard_normal(shape, np.float32) * np.float32((2 / (height * width * outputs)) ** 0.5)

    @nn.nowrap
    def draw_dense(self, random: np.random.Generator, shape: tuple[int, ...], inputs: int) -> np.ndarray:
        """Draw the initial values of a dense layer, from the distribution that its initialiser draws from.

        Args:
          random: generator of random numbers.
          shape: of the kernel, [inputs, outputs], or of the bias, [outputs].
          inputs: of the layer.

        Returns:
          A float32 array.
        """
        raise NotImplementedError

    @nn.nowrap
    def torch_modules(self) -> dict[str, str]:
        """Return the module of the published PyTorch network for each block but "logits".

        By default these are the layers with a kernel, below the classification layer.
        """
        return {
            "/".join(slot.path[1:-1]): name.removesuffix(".weight")
            for name, slot in self.slots().items()
            if slot.type != "vector" and slot.path[1] != self.CLASSIFIER
        }

    @staticmethod
    def keras_layer(block: str) -> str:
        """Return the layer of keras.applications for a block but "logits"."""
        raise NotImplementedError

    @staticmethod
    def recognises(names: Collection[str]) -> bool:
        """Tell whether published names of tensors look like those of this family."""
        raise NotImplementedError

    @staticmethod
    def variant_of_tensors(names: Collection[str], entry: Entry) -> dict[str, Any]:
        """Return the fields of the network `entry` that the published names of its tensors show."""
        raise NotImplementedError

    @staticmethod
    def variant_of_paths(paths: Collection[tuple[str, ...]]) -> dict[str, Any]:
        """Return the fields that the paths of variables show."""
        raise NotImplementedError

    @staticmethod
    def variant_notes(settings: Mapping[str, Any], entry: Entry) -> Iterator[str]:
        """Yield a sentence for the user about every field that is not usual for the network `entry`."""
        yield from ()

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
