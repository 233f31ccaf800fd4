"""Residual blocks as layer groups of their own: the same parameters, a level less deep in their tree."""

from collections.abc import Mapping
from typing import Any


def by_block(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return variables of a ResNet by residual block: "layer1": {"0": ...} becomes "layer1.0": ...."""
    found = {}
    for group, leaves in tree.items():
        if group.startswith("layer"):
            found |= {f"{group}.{block}": below for block, below in leaves.items()}
        else:
            found[group] = leaves
    return found


def by_stage(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return variables of a ResNet as checkpoints have them, by stage; what is so already stays as it is."""
    found: dict[str, Any] = {}
    for group, leaves in tree.items():
        stage, dot, block = group.partition(".")
        if dot:
            found.setdefault(stage, {})[block] = leaves
        else:
            found[group] = leaves
    return found
