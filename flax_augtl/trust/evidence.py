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
import numpy as np

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.models.augmented import AugmentedNetwork, features_end
from flax_augtl.trust.feature_maps import last_map, with_map
from flax_augtl.trust.penultimate import Trained, compiled_features_step, features_of_cut


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


def evidence_of(trained: Trained, images: np.ndarray, classes: np.ndarray, batch_size: int) -> np.ndarray:
    """Return how much each place of some images speaks for a class, float32 [N, h, w], see `evidence`.

    With global average pooling, the program that computes penultimate features gives the maps as well, and needs no
    second compilation if it has run with batches of this size before.

    Args:
      trained: a `Run`, or anything else that has a network, its preprocessing and its variables.
      images: uint8 [N, S, S, 3], N <= batch_size, as the network reads them.
      classes: int [N], the class in question for each image.
      batch_size: that of the compiled program.
    """
    network, count = trained.network, len(images)
    variables = jax.device_put(jax.tree.map(np.asarray, dict(trained.variables)))
    filled = np.concatenate([images, np.zeros((batch_size - count, *images.shape[1:]), images.dtype)])
    wanted = np.concatenate([classes, np.zeros(batch_size - count, np.int64)])
    cut, _, found = compiled_features_step(network, trained.preprocessing)(variables, filled)
    if found is None:
        return np.asarray(compiled_evidence(network, trained.preprocessing)(variables, filled, wanted))[:count]
    gradient = _compiled_gradient(cast(Any, network))(variables, cut, wanted)
    return np.einsum("nhwc,nc->nhw", np.asarray(found, np.float32)[:count], np.asarray(gradient, np.float32)[:count])


@functools.lru_cache(maxsize=8)
def _compiled_gradient(network: Any) -> Callable[..., Any]:
    """Return a compiled function (variables, cut, classes [N]) -> gradient of the score by the features, [N, D]."""
    end = features_end(network)

    def score(variables: Any, cut: Any, classes: jax.Array) -> jax.Array:
        return jnp.take_along_axis(network.apply(variables, cut, end), classes[:, None], axis=1).sum()

    return jax.jit(lambda *arguments: features_of_cut(jax.grad(score, argnums=1)(*arguments)))


def compiled_evidence(network: AugmentedNetwork, preprocessing: Preprocessing) -> Callable[..., Any]:
    """Return a compiled function (variables, uint8 [N, S, S, 3], classes [N]) -> float32 [N, h, w]."""
    return _compiled(cast(Any, network), preprocessing)  # Type checkers take Flax modules for unhashable.


@functools.lru_cache(maxsize=8)
def _compiled(network: Any, preprocessing: Preprocessing) -> Callable[..., Any]:
    return jax.jit(
        lambda variables, images, classes: evidence(network, variables, preprocessing.normalise(images), classes)
    )
