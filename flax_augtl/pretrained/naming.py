"""Tensor names of the libraries that publish ResNet and VGG → torchvision's."""

import re
from collections.abc import Mapping

from flax_augtl.pretrained.tensors import Tensor

# What wrappers put before every name: DataParallel, a training script's holder, torch.compile.
_WRAPPERS = ("module.", "model.", "_orig_mod.")

_TIMM_VGG = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}
_TRANSFORMERS_STAGE = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(shortcut|layer\.(\d+))\.(\w+)\.(\w+)")


def _unwrap(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    while tensors:
        prefix = next((w for w in _WRAPPERS if all(name.startswith(w) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _from_timm_vgg(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    return f"{_TIMM_VGG.get(layer, layer)}.{kind}"


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
    stage, block, branch, layer, part, kind = match.groups()
    if branch == "shortcut":
        part = {"convolution": "downsample.0", "normalization": "downsample.1"}.get(part, part)
    else:
        part = {"convolution": "conv", "normalization": "bn"}.get(part, part) + str(int(layer) + 1)
    return f"layer{int(stage) + 1}.{block}.{part}.{kind}"


def to_torchvision(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Rename the tensors of a PyTorch state dict.

    Batch norm's `num_batches_tracked` is dropped, for it plays no part in what a network computes.

    Returns:
        The layout found ("torchvision", which is timm's for ResNet too, "timm" or "transformers"), and the tensors.
        What is in no known layout keeps its name, so that it is later reported as unexpected under that name.
    """
    kept = {n: t for n, t in tensors.items() if n.rpartition(".")[2] != "num_batches_tracked"}
    kept = _unwrap(kept)
    if any("embedder.embedder." in name for name in kept):
        return "transformers", {_from_transformers(name): tensor for name, tensor in kept.items()}
    if any(name.startswith("pre_logits.fc1.") for name in kept):
        return "timm", {_from_timm_vgg(name): tensor for name, tensor in kept.items()}
    return "torchvision", dict(kept)
