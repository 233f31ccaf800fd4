"""The network to train: a source network with the head on top, still one chain of layer groups."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl import models
from flax_augtl.config.heads import HeadSettings
from flax_augtl.models.base import SourceNetwork
from flax_augtl.models.head import Head
from flax_augtl.models.initializers import random_variables
from flax_augtl.models.registry import FAMILIES

HEAD = "head"
CLASSIFICATION = tuple(family.CLASSIFIER for family in FAMILIES.values())
"""The layer groups that are the classification layer of some network."""


class AugmentedNetwork(nn.Module):
    """Source network and head.

    Its variables are `{"params": {"source": {group: ...}, "head": ...}, "batch_stats": ...}`. It can be cut at any
    layer group: running groups [0, k), and then [k, ...) on their output, equals running all of them.
    """

    source: SourceNetwork
    head: Head

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the layer groups, bottom to top; the last one is the head."""
        return (*self.source.groups, HEAD)

    def _source(self, x, start, stop, train_from):
        if train_from is None or start < train_from:
            edge = stop if train_from is None else min(stop, train_from)
            x = self.source(x, start, edge)
            # Nothing below gets a gradient, so nothing of it is kept for a backward pass.
            x = jax.lax.stop_gradient(x) if train_from is not None else x
            start = edge
        return self.source(x, start, stop, train_from) if start < stop else x

    def __call__(self, x: Any, start: int = 0, stop: int | None = None, train_from: int | None = None) -> Any:
        """Run groups[start:stop].

        Args:
          x: normalised images, float [N, H, W, 3], if `start` is 0; else the output of groups[:start].
          start: index of the first group to run.
          stop: index after the last group to run; None for all.
          train_from: groups from this index on run in training mode (batch statistics, dropout); those below run in
            inference mode and without gradient; None for inference.

        Returns:
          float32 [N, num_classes] logits if the head ran, else the activations at the cut. They are an array. If the
          head widens the topmost kept layer and that layer has run, they are a dict of its output `top` and its pooled
          input `below`.
        """
        count = len(self.source.groups)
        stop = count + 1 if stop is None else stop
        below = None
        if isinstance(x, Mapping):
            x, below = x["top"], x["below"]
        end = min(stop, count)
        if start < end:
            if self.head.settings.widen and end == count:
                if start < count - 1:
                    x = self._source(x, start, count - 1, train_from)
                    start = count - 1
                below = jnp.mean(x, axis=(1, 2)) if x.ndim == 4 else x
            x = self._source(x, start, end, train_from)
        if stop > count:
            return self.head(x, below, train=train_from is not None)
        return x if below is None else {"top": x, "below": below}


def features_end(network: AugmentedNetwork) -> int:
    """Return how many layer groups of the source network lie below its classification layer."""
    groups = network.source.groups
    return len(groups) - (groups[-1] in CLASSIFICATION)


def create_network(
    name: str,
    settings: HeadSettings,
    *,
    num_classes: int,
    source_classes: int | None = 1000,
    variant: Mapping[str, Any] | None = None,
    dtype=jnp.float32,
    axis_name: str | None = None,
    remat: bool = False,
) -> AugmentedNetwork:
    """Create the network of source `name` with a head for `num_classes` target classes.

    Args:
      name: a registered source network.
      settings: of the head.
      num_classes: number of target classes.
      source_classes: outputs of the pretrained classification layer; used if the head keeps it.
      variant: further settings of the source network that its checkpoint needs.
      dtype: of the computation; parameters are float32.
      axis_name: of the devices over which batch statistics are averaged.
      remat: in the backward pass, the source network computes the inside of its training parts again.
    """
    source = models.create_model(
        name,
        num_classes=source_classes if settings.keep_classifier else None,
        dtype=dtype,
        axis_name=axis_name,
        remat=remat,
        **(variant or {}),
    )
    return AugmentedNetwork(source, Head(settings, num_classes, dtype, axis_name))


def initial_variables(
    network: AugmentedNetwork, seed: int, image_size: int, pretrained: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return float32 variables of the network: new layers drawn from `seed`, the source network's from `pretrained`.

    Args:
      network: from `create_network`.
      seed: of the random draws.
      image_size: side of the images in pixels.
      pretrained: variables of the source network, or None for random ones. If the head does not keep the classification
        layer, it is left out; if it does, `classifier_init` says how it changes.

    Returns:
      {"params": ..., "batch_stats": ...} of numpy arrays; `batch_stats` is empty if the network has no batch norm.
    """
    settings, top = network.head.settings, network.source.groups[-1]
    source = (
        random_variables(network.source, seed)
        if pretrained is None
        else {
            # Leave out a classification layer that the head does not keep.
            collection: {group: tree for group, tree in groups.items() if group in network.source.groups}
            for collection, groups in pretrained.items()
        }
    )
    if settings.keep_classifier and settings.classifier_init == "random":
        source["params"][top] = random_variables(network.source, seed)["params"][top]
    if settings.keep_classifier and settings.classifier_init == "shuffled":
        source["params"][top] = shuffle_classifier(source["params"][top], seed)
    # Flax makes its modules hashable; its stubs do not say so.
    draw = _draw_head(network, image_size)  # pyright: ignore[reportArgumentType]
    head = draw(jax.random.key(seed))
    variables = {
        collection: {
            part: tree[collection] for part, tree in (("source", source), (HEAD, head)) if tree.get(collection)
        }
        for collection in ("params", "batch_stats")
    }
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)


@functools.lru_cache(maxsize=64)
def _draw_head(network: AugmentedNetwork, image_size: int):
    """Return a function key -> initial variables of the head; it is compiled, because op by op it takes longer."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    shapes: Any = jax.eval_shape(
        lambda x: network.init_with_output(jax.random.key(0), x, stop=len(network.source.groups))[0], images
    )
    shapes = shapes if isinstance(shapes, Mapping) else {"top": shapes}

    def draw(key):
        inputs: dict[str, Any] = {name: jnp.zeros(x.shape) for name, x in shapes.items()}
        return network.head.init(key, **inputs)

    return jax.jit(draw)


def shuffle_classifier(tree: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Permute the rows of the classification layer's kernel [features, classes], and keep its bias.

    Each output then reads the wrong features, but the spectrum of the kernel and the distribution of its weights stay.
    A permutation of the outputs would change nothing: new layers have no preference among their inputs.
    """
    kernel = np.asarray(tree["kernel"], np.float32)
    order = np.random.default_rng([seed, 1]).permutation(kernel.shape[0])
    return {**{name: np.asarray(leaf, np.float32) for name, leaf in tree.items()}, "kernel": kernel[order]}
