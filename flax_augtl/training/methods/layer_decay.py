"""Discriminative learning rates: lower layers learn more slowly.

Howard, Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL 2018 (arXiv 1801.06146).
"""

import dataclasses
from collections.abc import Mapping

from flax_augtl.training.freezing import PRETRAINED, FreezingPlan


@dataclasses.dataclass(frozen=True)
class LayerDecay:
    """The rate of each pretrained layer group is that of the one above times `decay`; the topmost one keeps its rate."""

    decay: float

    def factors(self, plan: FreezingPlan) -> Mapping[str, float]:
        """Return what the rate of each pretrained layer group that trains is multiplied by."""
        groups = [group for group, label in zip(plan.groups, plan.labels, strict=True) if label == PRETRAINED]
        return {group: self.decay**above for above, group in enumerate(reversed(groups))}
