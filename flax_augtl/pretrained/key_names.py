"""Renames tensors of the libraries that publish ResNet, VGG and AlexNet to torchvision's names."""

import enum
import re
from collections.abc import Mapping

from flax_augtl.models.alexnet import AlexNet
from flax_augtl.pretrained.formats.lazy_tensor import Tensor


class Names(enum.StrEnum):
    """The libraries whose names the tensors of a checkpoint may have."""

    TORCHVISION = "torchvision"  # Also timm's for ResNet.
    TIMM = "timm"
    TRANSFORMERS = "transformers"
    SEQUENTIAL = "Sequential"  # fastai's.
    PYTORCH_CIFAR = "pytorch-cifar"
    KERAS = "keras.applications"


# Prefixes of wrappers: DataParallel, a training script's holder, torch.compile.
_WRAPPERS = ("module.", "model.", "_orig_mod.")

_TIMM_VGG = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}
# Early torchvision had its dropout before the dense layers.
_OLD_VGG = {"classifier.1": "classifier.0", "classifier.4": "classifier.3"}
_TRANSFORMERS_STAGE = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(shortcut|layer\.(\d+))\.(\w+)\.(\w+)")
# The numbers of a ResNet's children in a Sequential: convolution, norm, ReLU, pooling, four stages, pooling,
# classifier.
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
# Other names of a ResNet's classification layer.
_CLASSIFIERS = ("linear", "last_linear", "classifier", "head")
_LAST_NORM = re.compile(r"layer(\d+)\.(\d+)\.bn(\d)\.weight")
# Heads of supervised and self-supervised training that replace the classification layer.
_RESNET_HEAD = re.compile(
    r"(fc|linear|last_linear|classifier|heads?|project\w*|predict\w*|mlp\w*|prototypes|queue\w*)(\..*)?"
)
_VGG_HEAD = re.compile(r"(classifier\.6|heads?|project\w*|predict\w*)(\..*)?")


def _unwrap(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    while tensors:
        prefix = next((w for w in _WRAPPERS if all(name.startswith(w) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _in_layers(tensors: Mapping[str, Tensor], layers: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename whole layers, such as "head.fc" to "classifier.6"."""
    parts = {name: name.rpartition(".") for name in tensors}
    return {
        f"{layers.get(parts[name][0], parts[name][0])}.{parts[name][2]}" if parts[name][1] else name: tensor
        for name, tensor in tensors.items()
    }


def _from_transformers(name: str) -> str:
    name = name.removeprefix("resnet.")
    for theirs, ours in (
        ("embedder.embedder.convolution.", "conv1."),
        ("embedder.embedder.normalization.", "bn1."),
        ("classifier.1.", "fc."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    match = _TRANSFORMERS_STAGE.fullmatch(name)
    if match is None:
        return name
    stage, block, branch, layer, part, leaf = match.groups()
    if branch == "shortcut":
        part = {"convolution": "downsample.0", "normalization": "downsample.1"}.get(part, part)
    else:
        part = {"convolution": "conv", "normalization": "bn"}.get(part, part) + str(int(layer) + 1)
    return f"layer{int(stage) + 1}.{block}.{part}.{leaf}"


def _from_children(name: str) -> str:
    child, _, rest = name.partition(".")
    return f"{_CHILDREN.get(child, child)}.{rest}"


def to_torchvision(tensors: Mapping[str, Tensor]) -> tuple[Names, dict[str, Tensor]]:
    """Rename the tensors of a PyTorch state dict.

    Batch norm's `num_batches_tracked` is dropped, since no network computes with it.

    Returns:
      The library of the names, and the tensors. A tensor with a name of no known library keeps it, so that the error
      about unexpected tensors shows that name.
    """
    kept = {n: t for n, t in tensors.items() if n.rpartition(".")[2] != "num_batches_tracked"}
    kept = _unwrap(kept)
    if any(name.startswith("encoder.stages.") or "embedder.embedder." in name for name in kept):
        return Names.TRANSFORMERS, {_from_transformers(name): tensor for name, tensor in kept.items()}
    if any(name.startswith("pre_logits.fc1.") for name in kept):
        return Names.TIMM, _in_layers(kept, _TIMM_VGG)
    if "4.0.conv1.weight" in kept:
        return Names.SEQUENTIAL, {_from_children(name): tensor for name, tensor in kept.items()}
    if "0.weight" in kept and len(kept["0.weight"].shape) == 4:
        return Names.SEQUENTIAL, {f"features.{name}": tensor for name, tensor in kept.items()}
    if "classifier.1.weight" in kept and "classifier.0.weight" not in kept and not AlexNet.recognises(kept):
        return Names.TORCHVISION, _in_layers(kept, _OLD_VGG)
    names = Names.TORCHVISION
    if any(".shortcut." in name for name in kept):
        names = Names.PYTORCH_CIFAR if "linear.weight" in kept else names
        kept = {name.replace(".shortcut.", ".downsample."): tensor for name, tensor in kept.items()}
    return names, _with_classifier(kept)


def _with_classifier(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ResNet's classification layer to "fc" if it has another known name."""
    width = _width(tensors)
    if width is None or any(name.startswith("fc.") for name in tensors):
        return dict(tensors)
    for layer in _CLASSIFIERS:
        weight = tensors.get(f"{layer}.weight")
        if weight is not None and f"{layer}.bias" in tensors and weight.shape[1:] == (width,):
            return _in_layers(tensors, {layer: "fc"})
    return dict(tensors)


def _width(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the output channels of a ResNet's last block; None for other networks."""
    norms = [(tuple(map(int, match.groups())), name) for name in tensors if (match := _LAST_NORM.fullmatch(name))]
    return tensors[max(norms)[1]].shape[0] if norms else None


def without_other_heads(
    tensors: Mapping[str, Tensor], projection: bool = False
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Leave out heads that replace the classification layer, such as "fc.1" or "projector.0".

    Args:
      tensors: in torchvision's names.
      projection: the layer with the classification layer's name is a projection.

    Returns:
      The remaining tensors, and the names of the others.
    """
    resnet = any(name.startswith("layer1.") for name in tensors)
    pattern, layer = (_RESNET_HEAD, "fc") if resnet else (_VGG_HEAD, "classifier.6")
    own = () if projection else (f"{layer}.weight", f"{layer}.bias")
    out = tuple(name for name in tensors if pattern.fullmatch(name) and name not in own)
    return {name: tensor for name, tensor in tensors.items() if name not in out}, out
