"""A run as an ONNX model, written from the layer groups of its network.

Why not a converter: jax2onnx 0.17.1 wants orbax-checkpoint below 0.11.37, and this package one of 0.12 or later, so
that the two cannot be installed together. Installed by force, it converts the small ResNets and fails at ResNet-18,
whose call of `nn.max_pool` it replaces by one that takes keywords only. Some twenty operators are needed here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_augtl.config.heads import HeadSettings
from flax_augtl.export import onnx_familiarity
from flax_augtl.export import onnx_layers as layers
from flax_augtl.export.forward import distance_parts
from flax_augtl.export.onnx_graph import Graph, Value
from flax_augtl.export.onnx_networks import add_groups
from flax_augtl.export.settings import ExportSettings
from flax_augtl.models.augmented import HEAD, AugmentedNetwork, features_end
from flax_augtl.models.head import ROOT_EPSILON, L2Normalise
from flax_augtl.pretrained import Preprocessing
from flax_augtl.trust.familiarity import Familiarity

# The epsilons of flax's LayerNorm and of the head's batch norm.
_LAYER_EPSILON = 1e-6
_BATCH_EPSILON = 1e-5
IMAGE = "images"


def onnx_model(
    network: AugmentedNetwork,
    variables: Mapping[str, Any],
    preprocessing: Preprocessing,
    settings: ExportSettings,
    *,
    temperature: float | None = None,
    familiarity: Familiarity | None = None,
    about: Mapping[str, str] | None = None,
) -> bytes:
    """Return the bytes of an ONNX model.

    Args:
      network: of the run.
      variables: of the network, as `forward.stored` returns them.
      preprocessing: of the run.
      settings: input and outputs.
      temperature: what logits are divided by before the softmax, None for a network that is not calibrated.
      familiarity: see `forward`.
      about: texts for the metadata of the file.

    Raises:
      ExportError: the family of the source network cannot be written.
    """
    graph, source = Graph(), network.source
    size, top = preprocessing.image_size, features_end(network)
    image = Value(IMAGE, (size, size, 3))
    x = _normalised(graph, image, preprocessing) if settings.input == "uint8" else image
    x = graph.add("Transpose", [x.name], (3, size, size), perm=[0, 3, 1, 2])
    own = {collection: tree.get("source", {}) for collection, tree in variables.items()}
    count, below = len(source.groups), None
    # As in `AugmentedNetwork`: width augmentation reads what the topmost layer group reads.
    x = add_groups(graph, source, own, x, 0, min(top, count - 1))
    if top == count:
        below = layers.mean_over_space(graph, x)
        x = add_groups(graph, source, own, x, count - 1, count)
    features = x
    if top < count:
        below, x = x, add_groups(graph, source, own, x, top, count)
    head = {collection: tree.get(HEAD, {}) for collection, tree in variables.items()}
    logits = _head(graph, network.head.settings, head, x, below)
    scaled = (
        logits
        if temperature is None
        else graph.add(
            "Div", [logits.name, graph.constant("temperature", np.array(temperature, np.float32))], logits.shape
        )
    )
    found = {
        "logits": logits,
        "features": graph.add("Identity", [features.name], features.shape, "features")
        if "features" in settings.outputs
        else None,
    }
    if "probabilities" in settings.outputs:
        found["probabilities"] = graph.add("Softmax", [scaled.name], logits.shape, "probabilities", axis=-1)
    if "familiarity" in settings.outputs:
        assert familiarity is not None, "`sheet.familiarity_of` checks this"
        found["familiarity"] = onnx_familiarity.add(graph, features, distance_parts(familiarity))
    outputs = [found[name] for name in settings.outputs]
    return graph.model(image, np.uint8 if settings.input == "uint8" else np.float32, outputs, dict(about or {}))


def _normalised(graph: Graph, image: Value, preprocessing: Preprocessing) -> Value:
    """Add what `Preprocessing.normalise` does to pixels."""
    x = graph.cast(image)
    x = graph.add(
        "Div", [x.name, graph.constant("pixel_range", np.array(255 / preprocessing.value_range, np.float32))], x.shape
    )
    if preprocessing.channel_order == "BGR":
        x = graph.add("Gather", [x.name, graph.constant("bgr", np.array([2, 1, 0], np.int64))], x.shape, axis=3)
    for op, name in (("Sub", "mean"), ("Div", "std")):
        x = graph.add(
            op, [x.name, graph.constant(f"pixel_{name}", np.array(getattr(preprocessing, name), np.float32))], x.shape
        )
    return x


def _head(graph: Graph, settings: HeadSettings, tree: Mapping[str, Any], x: Value, below: Value | None) -> Value:
    """Add the head, as `Head` computes it; returns the logits."""
    params = tree["params"]

    def normalised(value: Value, layer: str) -> Value:
        name = f"{HEAD}.{layer}"
        match settings.norm:
            case "l2":
                return layers.l2_norm(graph, value, name, params[layer], L2Normalise.epsilon)
            case "power":
                root = layers.signed_root(graph, value, ROOT_EPSILON)
                return layers.l2_norm(graph, root, name, params[layer], L2Normalise.epsilon)
            case "batch":
                return layers.batch_norm(graph, value, name, params[layer], tree["batch_stats"][layer], _BATCH_EPSILON)
            case "layer":
                return layers.layer_norm(graph, value, name, params[layer], _LAYER_EPSILON)
        return value

    def dense(value: Value, layer: str, output: str | None = None) -> Value:
        return layers.dense(graph, value, f"{HEAD}.{layer}", params[layer], output)

    blocks = {"": x}
    if settings.widen:
        assert below is not None, "a head that widens needs the inputs of the topmost layer"
        blocks["_wide"] = layers.relu(graph, dense(normalised(below, "wide_norm"), "wide"))
    for index in range(1, len(settings.new_layers) + 2):
        last = index > len(settings.new_layers)
        name = "classifier" if last else f"layer{index}"
        joined = layers.concatenated(
            graph, [normalised(block, f"{name}_norm{suffix}") for suffix, block in blocks.items()]
        )
        x = dense(joined, name, "logits" if last else None)
        blocks = {"": x if last else layers.relu(graph, x)}
    return x
