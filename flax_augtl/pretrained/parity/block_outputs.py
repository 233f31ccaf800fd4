"""The outputs of every block of a source network for a batch of images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.errors import UserError
from flax_augtl.models.base import SourceNetwork


def block_activations(model: SourceNetwork, variables: Any, x: jax.Array | np.ndarray) -> dict[str, np.ndarray]:
    """Run a network in inference mode, with the highest precision of products, and return the outputs of every block.

    Args:
      model: with its classification layer.
      variables: of the model.
      x: preprocessed images [N, H, W, 3].

    Returns:
      float32 arrays, NHWC or [N, C], by the names of `model.block_names`. If a ReLU follows the blocks, it is applied
      to them; it skips a batch norm between the two.
    """

    def run(variables, x):
        logits, kept = model.apply(
            variables,
            x,
            capture_intermediates=lambda module, _: isinstance(module, model.BLOCK_TYPES),
            mutable=["intermediates"],
        )
        return logits, kept["intermediates"]

    with jax.default_matmul_precision("highest"):
        # Do not compile the network as a whole: JAX then compiles the operations of equal blocks only once.
        logits, kept = run(variables, jnp.asarray(x))
    found = {}
    for name in model.block_names[:-1]:
        node = kept
        for key in name.split("/"):
            node = node[key]
        value = np.asarray(node["__call__"][0], np.float32)
        found[name] = np.maximum(value, 0) if model.RELU_AFTER_BLOCK else value
    return {**found, "logits": np.asarray(logits)}


def differences(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Return, for every block, the largest absolute difference divided by the original's largest value.

    Raises:
      UserError: the two have different blocks, or a block has different shapes.
    """
    if ours.keys() != theirs.keys():
        raise UserError(f"the blocks differ: {sorted(ours.keys() ^ theirs.keys())}")
    for name in ours:
        if ours[name].shape != theirs[name].shape:
            raise UserError(f"{name} has shape {ours[name].shape}, the original {theirs[name].shape}")
    return {name: float(np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max()) for name in ours}
