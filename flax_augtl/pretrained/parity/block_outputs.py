"""The outputs of every block of a source network for a batch of images."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.errors import UserError
from flax_augtl.models.base import SourceNetwork
from flax_augtl.models.parameters import layout
from flax_augtl.models.resnet import Block, ResNet, Stem


def block_names(model: SourceNetwork) -> tuple[str, ...]:
    """Return the names of a network's blocks, bottom to top, "logits" last.

    A block of a ResNet is its stem or a residual block ("layer1/0"); a block of a VGG is one layer ("conv1/conv0", "fc6").
    """
    if isinstance(model, ResNet):
        blocks = [f"layer{i + 1}/{j}" for i, size in enumerate(model.stage_sizes) for j in range(size)]
        return ("stem", *blocks, "logits")
    weights = [slot.path[1:-1] for slot in layout(model).values() if slot.kind != "vector"]
    return (*("/".join(path) for path in weights if path != ("fc8",)), "logits")


def block_activations(model: SourceNetwork, variables: Any, x: jax.Array | np.ndarray) -> dict[str, np.ndarray]:
    """Run a network in inference mode, with the highest precision of products, and return the outputs of every block.

    Args:
      model: with its classification layer.
      variables: of the model.
      x: preprocessed images [N, H, W, 3].

    Returns:
      float32 arrays, NHWC or [N, C], by the names of `block_names`. Those of a VGG are the layer's outputs after a ReLU,
      which skips a batch norm between the two.
    """
    kinds = (Stem, Block) if isinstance(model, ResNet) else (nn.Conv, nn.Dense)

    def run(variables, x):
        logits, kept = model.apply(
            variables, x, capture_intermediates=lambda module, _: isinstance(module, kinds), mutable=["intermediates"]
        )
        return logits, kept["intermediates"]

    with jax.default_matmul_precision("highest"):
        # Do not compile the network as a whole: JAX then compiles the operations of equal blocks only once.
        logits, kept = run(variables, jnp.asarray(x))
    found = {}
    for name in block_names(model)[:-1]:
        node = kept
        for key in name.split("/"):
            node = node[key]
        value = np.asarray(node["__call__"][0], np.float32)
        found[name] = value if isinstance(model, ResNet) else np.maximum(value, 0)
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
