"""The plan of what is frozen, which the optimizer, the step, the log and the study use."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from flax_augtl.config.nearest import did_you_mean
from flax_augtl.errors import UserError
from flax_augtl.models.augmented import CLASSIFICATION, HEAD
from flax_augtl.runtime.text import columns

FROZEN, PRETRAINED, NEW = "frozen", "pretrained", "new"


class Subset(Protocol):
    """Which parameters of the pretrained layer groups train."""

    def trains(self, name: str, beside: Collection[str]) -> bool:
        """Tell whether a parameter trains.

        Args:
          name: of the parameter in its layer.
          beside: the names of all parameters of its layer.
        """
        ...


@dataclasses.dataclass(frozen=True)
class FreezingPlan:
    """The label of each layer group: frozen, pretrained or new.

    Attributes:
      groups: the layer groups of the network, bottom to top, the head last.
      labels: the label of each group.
      subset: which parameters of the groups labelled pretrained train; None for all.
    """

    groups: tuple[str, ...]
    labels: tuple[str, ...]
    subset: Subset | None = None

    @property
    def frozen(self) -> tuple[str, ...]:
        """The frozen layer groups."""
        return self.groups[: self.depth]

    @property
    def depth(self) -> int:
        """The number of frozen layer groups, which is the index of the first trainable group."""
        return self.labels.count(FROZEN)

    @property
    def trains_source(self) -> bool:
        """Whether a layer group of the source network trains."""
        return self.depth < len(self.groups) - 1

    def label(self, path: Sequence[Any]) -> str:
        """Return the label of the parameter at a tree path such as ("source", "layer1", ...) or ("head", ...).

        Raises:
          UserError: the parameter belongs to no layer group.
        """
        names = [str(getattr(key, "key", key)) for key in path]
        group = names[0] if names[0] == HEAD else (names[1] if len(names) > 1 else "")
        if group not in self.groups:
            raise UserError(f"Parameter {'/'.join(names)} belongs to no layer group. Groups: {', '.join(self.groups)}.")
        return self.labels[self.groups.index(group)]

    def label_tree(self, params: Any) -> Any:
        """Return a tree like `params` that has the label of each leaf."""

        def label(path, _):
            found = self.label(path)
            if found != PRETRAINED or self.subset is None:
                return found
            layer = params
            for key in path[:-1]:
                layer = layer[key.key]
            return found if self.subset.trains(path[-1].key, layer) else FROZEN

        return jax.tree_util.tree_map_with_path(label, params)

    def partition(self, params: Any) -> tuple[Any, Any]:
        """Split parameters into (trainable, frozen): trees of the same shape; each has None for the other's leaves."""
        labels = self.label_tree(params)
        trainable = jax.tree.map(lambda leaf, label: None if label == FROZEN else leaf, params, labels)
        frozen = jax.tree.map(lambda leaf, label: leaf if label == FROZEN else None, params, labels)
        return trainable, frozen

    def norms(self, trainable: Any) -> jax.Array:
        """Return the norm of each layer group of a trainable partition, float32 [groups]; 0 for frozen groups."""
        trees = [trainable[HEAD] if group == HEAD else trainable["source"].get(group, {}) for group in self.groups]
        return jnp.stack(
            [
                jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), jnp.float32(0)))
                for tree in trees
            ]
        )


def merge(trainable: Any, frozen: Any) -> Any:
    """Return the whole tree of two trees from `FreezingPlan.partition`."""
    return jax.tree.map(
        lambda one, other: other if one is None else one, trainable, frozen, is_leaf=lambda leaf: leaf is None
    )


def freezing_plan(
    groups: Sequence[str],
    freeze: str,
    *,
    pretrained: bool = True,
    classifier_rate: str = PRETRAINED,
    subset: Subset | None = None,
) -> FreezingPlan:
    """Return the plan that freezes all groups up to and including `freeze`.

    Args:
      groups: the layer groups of the network, bottom to top, the head last.
      freeze: the topmost frozen group, or `none`, or `all` (all but the head).
      pretrained: False if the source network has random weights; its groups are then new, like the head.
      classifier_rate: label of the kept classification layer if it is not frozen.
      subset: which parameters of the groups labelled pretrained train; None for all.

    Raises:
      UserError: the group is unknown, or layers with random weights would be frozen.
    """
    source = tuple(group for group in groups if group != HEAD)
    choices = ("none", *source, "all")
    if freeze not in choices:
        raise UserError(
            f"config.freeze={freeze!r} is not a layer group of this network."
            f"{did_you_mean(freeze, choices, show=repr)} Choices: {', '.join(choices)}."
        )
    depth = {"none": 0, "all": len(source)}.get(freeze)
    if depth is None:
        depth = source.index(freeze) + 1
    if depth and not pretrained:
        raise UserError(
            f"config.freeze={freeze!r} would freeze layers with random weights, because config.weights is "
            "None. Give pretrained weights, or set config.freeze='none'."
        )
    labels = [FROZEN] * depth + [PRETRAINED if pretrained else NEW] * (len(source) - depth)
    if source[-1] in CLASSIFICATION and labels[-1] == PRETRAINED:
        labels[-1] = classifier_rate
    return FreezingPlan((*source, HEAD), (*labels, NEW), subset)


def table(
    plan: FreezingPlan,
    params: Any,
    learning_rate: float,
    multiplier: float,
    factors: Mapping[str, float] | None = None,
) -> str:
    """Return the plan as text with one line per layer group: group, parameters, label, learning rate.

    Args:
      plan: the plan.
      params: the parameters of the network.
      learning_rate: of pretrained layers.
      multiplier: of the learning rate of new layers.
      factors: of the learning rate of each pretrained layer group; None for 1.
    """
    counts = dict.fromkeys(plan.groups, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [key.key for key in path]
        counts[names[0] if names[0] == HEAD else names[1]] += leaf.size
    rates = {FROZEN: 0.0, PRETRAINED: learning_rate, NEW: learning_rate * multiplier}
    labels = dict(zip(plan.groups, plan.labels, strict=True))
    trainable = sum(leaf.size for leaf in jax.tree.leaves(plan.partition(params)[0]))
    rows = [("layer group", "parameters", "label", "learning rate")]
    rows += [
        (group, f"{counts[group]:,}", label, f"{rates[label] * (factors or {}).get(group, 1.0):.4g}")
        for group, label in labels.items()
    ]
    rows.append(("total", f"{sum(counts.values()):,}", f"trainable: {trainable:,}", ""))
    return columns(rows, align="<><>", least=(12, 12, 10))
