"""The function that is exported, in JAX: images to probabilities, logits and features."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.export.settings import ExportSettings
from flax_augtl.models.augmented import CLASSIFICATION, AugmentedNetwork
from flax_augtl.models.conv import plain_convolutions
from flax_augtl.pretrained import Preprocessing


def in_float32(network: AugmentedNetwork) -> AugmentedNetwork:
    """Return the network with all its computation in float32, whatever it was trained in."""
    plain = {"dtype": jnp.dtype("float32"), "axis_name": None, "remat": False}
    source, head = (
        part.clone(**{name: value for name, value in plain.items() if hasattr(part, name)})
        for part in (network.source, network.head)
    )
    return network.clone(source=source, head=head)


def features_end(network: AugmentedNetwork) -> int:
    """Return how many layer groups of the source network lie below its classification layer."""
    groups = network.source.groups
    return len(groups) - (groups[-1] in CLASSIFICATION)


def forward(
    network: AugmentedNetwork, preprocessing: Preprocessing, settings: ExportSettings, temperature: float | None = None
) -> Callable[[Mapping[str, Any], jax.Array], dict[str, jax.Array]]:
    """Return a function (variables, images) -> {output: array} that computes what an export computes.

    Args:
      network: of the run.
      preprocessing: of the run.
      settings: which input and which outputs.
      temperature: what logits are divided by before the softmax, None for a network that is not calibrated.
    """
    network, top = in_float32(network), features_end(network)

    def function(variables, images):
        x = preprocessing.normalise(images) if settings.input == "uint8" else images
        with plain_convolutions(), jax.default_matmul_precision("highest"):
            variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), variables)
            cut = network.apply(variables, x, 0, top)
            logits = network.apply(variables, cut, top)
        scaled = logits if temperature is None else logits / temperature
        found = {
            "probabilities": jax.nn.softmax(scaled),
            "logits": logits,
            "features": cut["top"] if isinstance(cut, Mapping) else cut,
        }
        return {name: found[name] for name in settings.outputs}

    return function


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
