"""The function that is exported, in JAX: images to probabilities, logits and features."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.export.settings import ExportError, ExportSettings
from flax_augtl.models.augmented import AugmentedNetwork, features_end
from flax_augtl.models.conv import plain_convolutions
from flax_augtl.pretrained import Preprocessing
from flax_augtl.trust.distances import Mahalanobis
from flax_augtl.trust.familiarity import Familiarity


def in_float32(network: AugmentedNetwork) -> AugmentedNetwork:
    """Return the network with all its computation in float32, whatever it was trained in."""
    plain = {"dtype": jnp.dtype("float32"), "axis_name": None, "remat": False}
    source, head = (
        part.clone(**{name: value for name, value in plain.items() if hasattr(part, name)})
        for part in (network.source, network.head)
    )
    return network.clone(source=source, head=head)


def forward(
    network: AugmentedNetwork,
    preprocessing: Preprocessing,
    settings: ExportSettings,
    temperature: float | None = None,
    familiarity: Familiarity | None = None,
) -> Callable[[Mapping[str, Any], jax.Array], dict[str, jax.Array]]:
    """Return a function (variables, images) -> {output: array} that computes what an export computes.

    Args:
      network: of the run.
      preprocessing: of the run.
      settings: which input and which outputs.
      temperature: what logits are divided by before the softmax, None for a network that is not calibrated.
      familiarity: of the network; needed for that output only.
    """
    network, top = in_float32(network), features_end(network)

    def function(variables, images):
        x = preprocessing.normalise(images) if settings.input == "uint8" else images
        with plain_convolutions(), jax.default_matmul_precision("highest"):
            variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), variables)
            cut: Any = network.apply(variables, x, 0, top)
            logits: Any = network.apply(variables, cut, top)
            features = cut["top"] if isinstance(cut, Mapping) else cut
            familiar = familiarity_of(familiarity, features) if familiarity is not None else None
        scaled = logits if temperature is None else logits / temperature
        found = {
            "probabilities": jax.nn.softmax(scaled),
            "logits": logits,
            "features": features,
            "familiarity": familiar,
        }
        return {name: found[name] for name in settings.outputs}

    return function


def familiarity_of(familiarity: Familiarity, features: jax.Array) -> jax.Array:
    """Return the familiarity [N] of features float32 [N, D], as `Familiarity` computes it."""
    parts = distance_parts(familiarity)
    x = features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12) - parts.centre
    inside = x @ parts.basis
    squares, near = _squares(x, parts.means), _squares(inside, parts.near)
    scaled = _squares(inside * parts.inverse, parts.near * parts.inverse)
    far = jnp.sqrt(jnp.min(scaled + jnp.maximum(squares - near, 0.0) * parts.inverse_rest, axis=1))
    farther = jnp.sum(parts.validation > far[:, None], axis=1)
    return (farther.astype(jnp.float32) + 1) / (len(parts.validation) + 1)


def _squares(x: jax.Array, y: jax.Array | np.ndarray) -> jax.Array:
    return jnp.maximum(jnp.sum(x**2, axis=1, keepdims=True) - 2 * x @ y.T + jnp.sum(y**2, axis=1), 0.0)


class DistanceParts(NamedTuple):
    """The arrays of a Mahalanobis distance, float32, as a graph needs them.

    Attributes:
      centre: [D], the mean of all class means.
      means: [classes, D], without the centre.
      basis: [D, r].
      near: [classes, r], the means in the basis.
      inverse: [r], one over the standard deviation in each direction of the basis.
      inverse_rest: one over the variance in each other direction.
      validation: [n], the distances of the validation images.
    """

    centre: np.ndarray
    means: np.ndarray
    basis: np.ndarray
    near: np.ndarray
    inverse: np.ndarray
    inverse_rest: np.ndarray
    validation: np.ndarray


def distance_parts(familiarity: Familiarity) -> DistanceParts:
    """Return the arrays of a familiarity.

    Raises:
      ExportError: it is of a kind that cannot be exported.
    """
    distance = familiarity.distance
    if not isinstance(distance, Mahalanobis):
        raise ExportError("This run has a familiarity of a kind that cannot be exported: fit it again.")
    means, basis = distance.means.astype(np.float64), distance.basis.astype(np.float64)
    centre = means.mean(axis=0)
    found = (
        centre,
        means - centre,
        basis,
        (means - centre) @ basis,
        1 / np.sqrt(distance.variances.astype(np.float64)),
        np.array(1 / distance.rest),
        familiarity.validation,
    )
    return DistanceParts(*(np.asarray(array, np.float32) for array in found))


def stored(variables: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """Return variables as an export stores them: matrices and kernels of the type `weights`, vectors float32.

    Raises:
      OverflowError: a value is too large for the type.
    """

    def convert(leaf):
        leaf = np.asarray(leaf, np.float32)
        if leaf.ndim < 2 or weights == "float32":
            return leaf
        with np.errstate(over="ignore"):
            found = leaf.astype(jnp.dtype(weights))
        if not np.isfinite(found.astype(np.float32)).all():
            raise OverflowError(f"a weight of {float(np.abs(leaf).max()):g}")
        return found

    return jax.tree.map(convert, dict(variables))
