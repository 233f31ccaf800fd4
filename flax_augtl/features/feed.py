"""Batches of kept activations, for training and evaluation."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from flax_augtl.features.activations import Activations
from flax_augtl.models.augmented import AugmentedNetwork


@dataclasses.dataclass
class Feed:
    """Batches of what one layer group reads, from the pool on the device or from the host.

    Attributes:
      activations: the kept activations.
      network: whose layer group it is.
      start: index of the layer group.
      on_device: whether all rows are on the device.
      decoders: threads that decode images; None if activations are kept of all rows.
      place: puts host arrays on the devices.
    """

    activations: Activations
    network: AugmentedNetwork
    start: int
    on_device: bool
    decoders: ThreadPoolExecutor | None
    place: Callable[[Any], Any]

    @property
    def pool(self) -> Any:
        """Pool for the compiled functions; None if the batches come from the host."""
        return self.activations.pool(self.network, self.start, self.place) if self.on_device else None

    def batch(self, rows: np.ndarray, labels: np.ndarray, **more: np.ndarray) -> dict[str, Any]:
        """Return the batch of rows int [..., b] and their labels, as arrays [..., b, ...]."""
        batch = {"label": labels.astype(np.int32), **more}
        if self.on_device:
            return {**batch, "index": rows.astype(np.int32)}
        return {**batch, "inputs": self.activations.gather(self.network, self.start, rows, self.decoders)}


def over_devices(batch: Any, axis: int) -> Any:
    """Split axis `axis` of all arrays of a batch over the local devices: [..., B, ...] to [devices, ..., b, ...]."""
    devices = jax.local_device_count()

    def split(x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x.reshape(*x.shape[:axis], devices, -1, *x.shape[axis + 1 :]), axis, 0)

    return jax.tree.map(split, batch)
