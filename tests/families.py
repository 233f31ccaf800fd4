"""Every family of source networks in a small variant: the one table for the tests that all networks must pass."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Case(NamedTuple):
    """A small variant of a registered network.

    Attributes:
      network: its registered name.
      settings: fields that make it small.
      size: side of the images in pixels.
      parameters: number of parameters with 7 classes; None where no test counts them.
    """

    network: str
    settings: Mapping[str, Any]
    size: int
    parameters: int | None = None


# The smallest network of each family, by the name of the family in `flax_augtl.models.registry`.
FAMILIES: Mapping[str, Case] = {
    "resnet": Case("resnet20", {"stage_sizes": (1, 1, 1), "widths": (4, 6, 8)}, 8, 2187),
    "vgg": Case("vgg11_bn", {"convs": (1, 1, 1, 1, 1), "widths": (2, 2, 3, 3, 3), "hidden": 9}, 32, 1837),
    "alexnet": Case("alexnet", {"widths": (2, 2, 3, 3, 3), "hidden": 9}, 63, 2196),
}

# The variants that compute differently, for the tests of chains of layer groups.
CHAINS: Mapping[str, Case] = {
    "basic": Case("resnet18", {"widths": (4, 6, 8, 10), "stage_sizes": (1, 1, 1, 1)}, 40),
    "bottleneck": Case(
        "resnet50",
        {"widths": (4, 6, 8, 10), "stage_sizes": (1, 2, 1, 1), "v1_stride": True, "conv_bias": True, "epsilon": 1e-3},
        33,
    ),
    "vgg": Case("vgg13", {"widths": (4, 4, 6, 6, 8), "hidden": 16}, 40),
    "vgg_bn": Case("vgg11_bn", {"widths": (4, 4, 6, 6, 8), "hidden": 16}, 40),
    "alexnet": Case("alexnet", {"widths": (4, 4, 6, 6, 8), "hidden": 16}, 70),
    "cifar": Case("resnet20", {"widths": (4, 6, 8), "stage_sizes": (1, 1, 1)}, 12),
}
