"""Evidence maps: which places of an image speak for a class.

With global average pooling, the score of a class under a linear head is the mean of its class activation map (Zhou et
al., CVPR 2016) plus a bias. Under any other head, the map is that of the head's linear approximation at this image. Networks
without global average pooling get Grad-CAM (Selvaraju et al., ICCV 2017). All three are one formula: the feature map
times the gradient of the score, summed over all places.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.models.augmented import AugmentedNetwork
from flax_augtl.trust.feature_maps import last_map, with_map


def is_exact(network: AugmentedNetwork) -> bool:
    """Tell whether the maps are class activation maps; otherwise they are Grad-CAM."""
    return last_map(cast(Any, network))[2]  # Type checkers take Flax modules for unhashable.


def evidence(network: AugmentedNetwork, variables: Mapping[str, Any], x: jax.Array, classes: jax.Array) -> jax.Array:
    """Return how much each place speaks for a class, float32 [N, h, w]; negative where it speaks against it.

    With global average pooling and a linear head, the mean of a map is the score (logit) of the class without its bias.

    Args:
      network: the network.
      variables: its variables.
      x: normalised images [N, H, W, 3].
      classes: int [N], the class in question for each image.
    """
    group = last_map(cast(Any, network))[0]
    _, shape = jax.eval_shape(lambda x: with_map(network, variables, x, group), x)

    def score(change: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, found = with_map(network, variables, x, group, change=change)
        # At inference the images do not influence each other, so one gradient serves all of them.
        return jnp.take_along_axis(logits, classes[:, None], axis=1).sum(), cast(jax.Array, found)

    gradient, found = jax.grad(score, has_aux=True)(jnp.zeros(shape.shape, jnp.float32))
    return jnp.einsum("nhwc,nc->nhw", found.astype(jnp.float32), gradient.sum((1, 2)))


def compiled_evidence(network: AugmentedNetwork, preprocessing: Preprocessing) -> Callable[..., Any]:
    """Return a compiled function (variables, uint8 [N, S, S, 3], classes [N]) -> float32 [N, h, w]."""
    return _compiled(cast(Any, network), preprocessing)  # Type checkers take Flax modules for unhashable.


@functools.lru_cache(maxsize=8)
def _compiled(network: Any, preprocessing: Preprocessing) -> Callable[..., Any]:
    return jax.jit(
        lambda variables, images, classes: evidence(network, variables, preprocessing.normalise(images), classes)
    )
