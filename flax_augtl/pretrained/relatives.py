"""Names the architecture of a checkpoint that resembles a supported network, in a sentence."""

import re
from collections.abc import Mapping

from flax_augtl.models import MODELS
from flax_augtl.models.resnet import ResNet
from flax_augtl.pretrained.formats.lazy_tensor import Tensor

_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(.+)")


def kin(tensors: Mapping[str, Tensor]) -> str:
    """Return a sentence that names the architecture of the tensors, such as a Wide ResNet; "" if it is unknown."""
    names = " ".join(tensors)
    if ResNet.recognises(tensors):
        found = _of_resnet(tensors)
        return f"It looks like {found}, which is not supported." if found else ""
    for pattern, what in (
        (r"features\.conv0|denseblock", "a DenseNet"),
        (r"stages\.\d+\.blocks|features\.\d+\.\d+\.block\.", "a ConvNeXt"),
        (r"features\.0\.0\.", "a MobileNet or EfficientNet"),
        (r"blocks\.\d+\.attn|encoder\.layers?\.\S*self_attention", "a vision transformer"),
        (r"Mixed_", "an Inception network"),
    ):
        if re.search(pattern, names):
            return f"It looks like {what}, not like a ResNet, a VGG or an AlexNet."
    first = tensors.get("features.0.weight")
    return (
        "It looks like an AlexNet, but not like torchvision's."
        if first is not None and first.shape[2:] == (11, 11)
        else ""
    )


def _of_resnet(tensors: Mapping[str, Tensor]) -> str:
    blocks = [(match.groups(), tensor) for name, tensor in tensors.items() if (match := _BLOCK.fullmatch(name))]
    inner = {part.partition(".")[0] for (_, _, part), _ in blocks}
    if inner & {"se", "attn", "fc1", "ca", "sa", "cbam"}:
        return "a ResNet with attention in its blocks, such as an SE-ResNet"
    if "conv1.0.weight" in tensors:
        return "a ResNet-C or ResNet-D, whose first layer is three convolutions"
    middle, first = tensors.get("layer1.0.conv2.weight"), tensors.get("layer1.0.conv1.weight")
    last = tensors.get("layer1.0.conv3.weight")
    if middle is not None and len(middle.shape) == 4 and first is not None:
        width = first.shape[0]
        if middle.shape[0] == width and middle.shape[1] < width:
            return f"a ResNeXt, with {width // middle.shape[1]} groups in its convolutions"
        if last is not None and width * 4 != last.shape[0]:
            return f"a Wide ResNet, with blocks {width * 4 / last.shape[0]:g} times as wide inside"
    sizes: dict[str, int] = {}
    for (stage, block, _), _ in blocks:
        sizes[stage] = max(sizes.get(stage, 0), int(block) + 1)
    block_type = "bottleneck" if last is not None else "basic"
    found = tuple(sizes[stage] for stage in sorted(sizes))
    if any(
        entry.settings.get("block") == block_type and entry.settings["stage_sizes"] == found
        for entry in MODELS.values()
    ):
        return ""
    return f"a ResNet with {', '.join(map(str, found))} {block_type} blocks in its stages"
