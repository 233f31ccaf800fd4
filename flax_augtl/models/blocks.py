"""Converts variables of a ResNet between layer groups that are stages and layer groups that are residual blocks."""

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
    """Return variables of a ResNet by stage, as checkpoints have them; groups that are stages stay as they are."""
    found: dict[str, Any] = {}
    for group, leaves in tree.items():
        stage, dot, block = group.partition(".")
        if dot:
            found.setdefault(stage, {})[block] = leaves
        else:
            found[group] = leaves
    return found
