"""The three kinds of input of a step: images, a dataset on the device, and kept features."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flax_augtl.data.loading.device_dataset import cut
from flax_augtl.pretrained import Preprocessing

Batch = Mapping[str, Any]
Pool = Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Images:
    """The batch brings the images: `image` uint8 [b, H, W, 3]."""

    def images(self, batch: Batch, pool: Pool, preprocessing: Preprocessing) -> jax.Array:
        """Return the images of a batch, uint8 [b, size, size, 3]."""
        return batch["image"]

    def read(self, batch: Batch, pool: Pool, preprocessing: Preprocessing) -> Any:
        """Return what the network reads."""
        return preprocessing.normalise(self.images(batch, pool, preprocessing))


@dataclasses.dataclass(frozen=True)
class DeviceImages(Images):
    """A dataset lives on the device; the batch brings `index` and `box` of its images (`data.loading.device_dataset`).

    The pool holds `images` and `sizes`.

    Attributes:
      crop: crop of the images.
      method: interpolation of the crop.
    """

    crop: str
    method: str

    def images(self, batch: Batch, pool: Pool, preprocessing: Preprocessing) -> jax.Array:
        """Return the images of a batch, uint8 [b, size, size, 3]."""
        assert pool is not None, "the images are in a pool"
        return cut(
            pool["images"],
            pool["sizes"],
            batch["index"],
            batch["box"],
            crop=self.crop,
            method=self.method,
            image_size=preprocessing.image_size,
        )


@dataclasses.dataclass(frozen=True)
class KeptFeatures:
    """The batch brings kept activations `inputs`, a tree of arrays [b, ...], or `index` int32 [b] of rows of the pool.

    The pool holds `inputs`, a tree of arrays [rows, ...].

    Attributes:
      start: index of the layer group that reads them. For 0 they are finished views of the images, uint8.
    """

    start: int

    def read(self, batch: Batch, pool: Pool, preprocessing: Preprocessing) -> Any:
        """Return what the layer group reads: float32 activations, or normalised images if `start` is 0."""
        if "inputs" in batch:
            kept = batch["inputs"]
        else:
            assert pool is not None, "a batch without inputs has indices into the pool"
            kept = jax.tree.map(lambda rows: rows[batch["index"]], pool["inputs"])
        return jax.tree.map(lambda x: x.astype(jnp.float32), kept) if self.start else preprocessing.normalise(kept)


StepInputs = Images | KeptFeatures


def start_of(inputs: StepInputs) -> int:
    """Return the index of the layer group that reads the inputs."""
    return inputs.start if isinstance(inputs, KeptFeatures) else 0
