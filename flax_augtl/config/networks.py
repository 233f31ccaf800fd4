"""The source networks by name, as plain data: their families, settings and layer groups."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flax_augtl.config.nearest import did_you_mean
from flax_augtl.errors import UserError

NONE, ALL = "none", "all"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the name of a network alone tells.

    Attributes:
      family: a key of `models.registry.FAMILIES`, such as "resnet".
      settings: the fields of its module that the name decides.
      groups: its layer groups, bottom to top; the last one is the classification layer.
      penultimate: width of the vector that the classification layer reads.
      image_size: side in pixels of the images that the network was published for.
      blocks: its residual blocks, bottom to top, such as `layer1.0`; empty if it has none.
    """

    family: str
    settings: Mapping[str, Any]
    groups: tuple[str, ...]
    penultimate: int
    image_size: int
    blocks: tuple[str, ...] = ()


# Output channels of a block, divided by its width.
EXPANSION: Mapping[str, int] = {"basic": 1, "bottleneck": 4}
_WIDTHS = (64, 128, 256, 512)
_HIDDEN = 4096  # Of VGG and AlexNet.
_VGG_CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def _resnet(block: str, stage_sizes: tuple[int, ...], *, image_size: int = 224, **settings: Any) -> Entry:
    stages = range(1, len(stage_sizes) + 1)
    return Entry(
        "resnet",
        MappingProxyType(dict(block=block, stage_sizes=stage_sizes, **settings)),
        ("stem", *(f"layer{stage}" for stage in stages), "fc"),
        settings.get("widths", _WIDTHS)[-1] * EXPANSION[block],
        image_size,
        tuple(f"layer{stage}.{number}" for stage in stages for number in range(stage_sizes[stage - 1])),
    )


def _cifar_resnet(blocks: int) -> Entry:
    return _resnet("basic", (blocks,) * 3, widths=(16, 32, 64), stem="cifar", image_size=32)


def _vgg(convs: tuple[int, ...], batch_norm: bool) -> Entry:
    return Entry("vgg", MappingProxyType(dict(convs=convs, batch_norm=batch_norm)), _groups(len(convs)), _HIDDEN, 224)


def _groups(convs: int) -> tuple[str, ...]:
    """Return the layer groups of a VGG or an AlexNet."""
    return (*(f"conv{number}" for number in range(1, convs + 1)), "fc6", "fc7", "fc8")


NETWORKS: Mapping[str, Entry] = MappingProxyType(
    {
        "resnet18": _resnet("basic", (2, 2, 2, 2)),
        "resnet34": _resnet("basic", (3, 4, 6, 3)),
        "resnet50": _resnet("bottleneck", (3, 4, 6, 3)),
        "resnet101": _resnet("bottleneck", (3, 4, 23, 3)),
        "resnet152": _resnet("bottleneck", (3, 8, 36, 3)),
        **{f"vgg{n}{'_bn' * bn}": _vgg(convs, bn) for n, convs in _VGG_CONVS.items() for bn in (False, True)},
        "alexnet": Entry("alexnet", MappingProxyType({}), _groups(5), _HIDDEN, 224),
        **{f"resnet{6 * n + 2}": _cifar_resnet(n) for n in (3, 5, 7, 9, 18)},
    }
)


def find(name: str) -> Entry:
    """Return the entry of a network.

    Raises:
      UserError: there is no such network; the message gives the choices and the nearest names.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    hint = did_you_mean(str(name).lower(), NETWORKS, most=3)
    raise UserError(f"There is no network {name!r}.{hint} The choices are {', '.join(NETWORKS)}.")
