"""Run a trained network on images in inference mode, over all local devices of this process."""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.models.augmented import AugmentedNetwork
from flax_augtl.training.pmapped import PmappedStep, replicate
from flax_augtl.training.step import AXIS
from flax_augtl.trust import views as image_views
from flax_augtl.trust.penultimate import Trained, features_and_logits


class Outputs(NamedTuple):
    """What a network says of some images.

    Attributes:
      probabilities: float32 [N, C], before the calibration; means over the views.
      features: float32 [N, D], which the classification layer of the source network reads; of the first view.
      logits: float32 [N, C], of the first view.
    """

    probabilities: np.ndarray
    features: np.ndarray
    logits: np.ndarray


class Predictor:
    """Computes the outputs of a network for batches of prepared images."""

    def __init__(self, trained: Trained, views: str = "one", variables: Any = None):
        """Bring the weights to the devices.

        Args:
          trained: the network.
          views: over which views of each image the probabilities are averaged; see `trust.views`.
          variables: the weights as `replicate` puts them on the devices, if they are there already.
        """
        image_views.check(views)
        # Type checkers take Flax modules for unhashable.
        self._step = _pmapped(cast(Any, trained.network), trained.preprocessing, views)
        self._variables = replicate(trained.variables) if variables is None else variables
        self._devices, self._largest = jax.local_device_count(), 0

    def over(self, batches: Iterable[np.ndarray]) -> Iterator[Outputs]:
        """Yield the outputs for batches of pixels, uint8 [n, S, S, 3] or [n, crops, S, S, 3].

        The devices get the next batch before the outputs of the last one are read, so they do not wait for the reader.
        """
        last = None
        for pixels in batches:
            started = self._start(pixels)
            if last is not None:
                yield self._finished(*last)
            last = started, len(pixels)
        if last is not None:
            yield self._finished(*last)

    def __call__(self, pixels: np.ndarray) -> Outputs:
        """Return the outputs for one batch."""
        return next(self.over([pixels]))

    def _start(self, pixels: np.ndarray) -> Any:
        """Start to compute the outputs of a batch, which is filled up to one of a few sizes."""
        size = _size(len(pixels), self._devices, self._largest)
        self._largest = max(self._largest, size)
        filled = np.concatenate([pixels, np.zeros((size - len(pixels), *pixels.shape[1:]), np.uint8)])
        return self._step(self._variables, filled.reshape(self._devices, -1, *pixels.shape[1:]))

    def _finished(self, started: Any, count: int) -> Outputs:
        return Outputs(*(np.asarray(array)[:count] for array in started))


def rounded(batch_size: int) -> int:
    """Return the next batch size that divides by the number of local devices."""
    devices = jax.local_device_count()
    return math.ceil(batch_size / devices) * devices


def _size(count: int, devices: int, largest: int) -> int:
    """Return to how many images a batch is filled up.

    The last batch of several gets the size of the others, and a single batch a power of two for each device, so that few
    sizes are ever compiled.
    """
    each = math.ceil(count / devices)
    return largest if count <= largest else devices * (each if each % 8 == 0 else 2 ** math.ceil(math.log2(each)))


@functools.lru_cache(maxsize=16)
def _pmapped(network: Any, preprocessing: Preprocessing, views: str) -> PmappedStep:
    step = functools.partial(outputs_step, network=network, preprocessing=preprocessing, views=views)
    return PmappedStep(step, 2, local=True)


def outputs_step(
    variables: Any, images: jax.Array, *, network: AugmentedNetwork, preprocessing: Preprocessing, views: str
) -> Outputs:
    """Return the outputs for the images of all devices; see `Predictor.over`."""
    images = images if views == "ten_crop" else images[:, None]
    if views != "one":
        images = jnp.concatenate([images, images[:, :, :, ::-1]], 1)
    features, logits = features_and_logits(network, preprocessing, variables, images.reshape(-1, *images.shape[2:]))
    features, logits = (array.reshape(*images.shape[:2], -1) for array in (features, logits))
    outputs: Any = Outputs(*cast(Any, (jax.nn.softmax(logits).mean(1), features[:, 0], logits[:, 0])))
    return jax.lax.all_gather(outputs, AXIS, tiled=True)
