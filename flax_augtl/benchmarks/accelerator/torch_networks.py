"""ResNets and VGGs in PyTorch as torchvision has them, for a comparison that needs PyTorch alone."""

import torch
from torch import nn

from flax_augtl.models import create_model
from flax_augtl.models.resnet import EXPANSION


class Block(nn.Module):
    """A residual block: `basic` or `bottleneck`, with the stride on the 3×3 convolution."""

    def __init__(self, kind: str, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = width * EXPANSION[kind]
        layers = (
            [(inputs, width, 3, stride), (width, width, 3, 1)]
            if kind == "basic"
            else [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        )
        parts: list[nn.Module] = []
        for index, (before, after, size, step) in enumerate(layers):
            parts += [nn.Conv2d(before, after, size, step, size // 2, bias=False), nn.BatchNorm2d(after)]
            parts += [nn.ReLU(inplace=True)] * (index + 1 < len(layers))
        self.body = nn.Sequential(*parts)
        self.shortcut = (
            nn.Sequential()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the block."""
        return torch.relu(self.body(x) + self.shortcut(x))


def layer_groups(network: str, classes: int, **variant) -> dict[str, nn.Module]:
    """Return the layer groups of a network, bottom to top, the new classifier last as `head`.

    Args:
      network: a name that `flax_augtl.models` knows, of a network for ImageNet.
      classes: of the new classifier.
      **variant: settings of the network.
    """
    model = create_model(network, num_classes=None, **variant)
    if network.startswith("vgg"):
        return _vgg(model, classes)
    groups: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            nn.Conv2d(3, model.widths[0], 7, 2, 3, bias=False),
            nn.BatchNorm2d(model.widths[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
    }
    inputs = model.widths[0]
    for stage, (count, width) in enumerate(zip(model.stage_sizes, model.widths, strict=True)):
        blocks = []
        for index in range(count):
            blocks.append(Block(model.block, inputs, width, 2 if stage and not index else 1))
            inputs = width * EXPANSION[model.block]
        groups[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    return {**groups, "head": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))}


def _vgg(model, classes: int) -> dict[str, nn.Module]:
    groups, inputs = {}, 3
    for stage, (count, width) in enumerate(zip(model.convs, model.widths, strict=True)):
        parts: list[nn.Module] = []
        for _ in range(count):
            parts += [nn.Conv2d(inputs, width, 3, 1, 1), nn.ReLU(inplace=True)]
            inputs = width
        groups[f"conv{stage + 1}"] = nn.Sequential(*parts, nn.MaxPool2d(2, 2))
    groups["fc6"] = nn.Sequential(
        nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(49 * inputs, model.hidden), nn.ReLU()
    )
    groups["fc7"] = nn.Sequential(nn.Linear(model.hidden, model.hidden), nn.ReLU())
    return {**groups, "head": nn.Sequential(nn.Linear(model.hidden, classes))}
