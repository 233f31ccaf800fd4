"""The penultimate features of images: what the classification layer of the source network reads.

One compiled program gives the features, the logits, and the feature map that the features are the average of, so that
familiarity, inspection and evidence maps need no program of their own.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

import jax
import numpy as np

from flax_augtl.models.augmented import AugmentedNetwork, features_end
from flax_augtl.pretrained import Preprocessing
from flax_augtl.trust.feature_maps import with_map


class Trained(Protocol):
    """A network with its weights and its preprocessing, such as a `Run`."""

    @property
    def network(self) -> AugmentedNetwork:
        """The network."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """The evaluation transform of its images."""
        ...

    @property
    def variables(self) -> Mapping[str, Any]:
        """The variables of the network."""
        ...


def penultimate_features(run_or_model: Trained, batches: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the features and the logits of images, in inference mode.

    Args:
      run_or_model: a `Run`, or anything else that has a network, its preprocessing and its variables.
      batches: uint8 [b, S, S, 3], as `preprocessing.resize_and_crop` returns images. Batches that are smaller than the
        first one are filled up, so that the network compiles once.

    Returns:
      The features float32 [N, D] that the classification layer of the source network reads, whether the head keeps
      that layer or not; and the logits float32 [N, classes] of the target task.
    """
    network = run_or_model.network
    step = compiled_features_step(network, run_or_model.preprocessing)
    # One copy: variables that lie on several devices would have each device compute every image.
    variables = jax.device_put(jax.tree.map(np.asarray, dict(run_or_model.variables)))
    size, features, logits = 0, [], []
    for batch in batches:
        size = max(size, len(batch))
        filled = np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])
        cut, found, _ = step(variables, filled)
        features.append(np.asarray(features_of_cut(cut), np.float32)[: len(batch)])
        logits.append(np.asarray(found)[: len(batch)])
    if not features:
        return np.zeros((0, width(network)), np.float32), np.zeros((0, network.head.num_classes), np.float32)
    return np.concatenate(features), np.concatenate(logits)


def compiled_features_step(network: AugmentedNetwork, preprocessing: Preprocessing) -> Callable[..., Any]:
    """Return a compiled function (variables, uint8 [N, S, S, 3]) -> (cut, logits, map), for one device.

    `cut` is what the classification layer reads, see `features_of_cut`. `map` is the feature map [N, h, w, D] whose
    average over places is the features; None in a network without global average pooling.
    """
    return _compiled(cast(Any, network), preprocessing)  # Type checkers take Flax modules for unhashable.


@functools.lru_cache(maxsize=8)
def _compiled(network: Any, preprocessing: Preprocessing) -> Callable[..., Any]:
    return jax.jit(functools.partial(_step, network, preprocessing))


def _step(
    network: AugmentedNetwork, preprocessing: Preprocessing, variables: Any, images: jax.Array
) -> tuple[Any, Any, jax.Array | None]:
    end, x = features_end(network), preprocessing.normalise(images)
    cut, found = with_map(network, variables, x, network.source.groups[end - 1], stop=end)
    averaged = found is not None and features_of_cut(cut).shape[1:] == found.shape[-1:]
    return cut, network.apply(variables, cut, end), found if averaged else None


def features_and_logits(
    network: AugmentedNetwork, preprocessing: Preprocessing, variables: Any, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the penultimate features float32 [N, D] and the logits float32 [N, classes] of uint8 [N, S, S, 3]."""
    cut, logits, _ = _step(network, preprocessing, variables, images)
    return features_of_cut(cut).astype(np.float32), logits


def features_of_cut(cut: Any) -> jax.Array:
    """Return the penultimate features [N, D] in the output of the layer groups below the classification layer."""
    return cut["top"] if isinstance(cut, Mapping) else cut


def width(network: AugmentedNetwork) -> int:
    """Return the number of penultimate features."""
    size = network.source.smallest_image
    images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)

    def features(images):
        found, _ = network.init_with_output(jax.random.key(0), images, stop=features_end(network))
        return features_of_cut(found)

    return jax.eval_shape(features, images).shape[-1]
