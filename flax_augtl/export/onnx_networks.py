"""The layer groups of every family of source networks, as nodes of ONNX.

A new family needs a function (graph, module, group, variables of the group, x) -> x, and a row in `FAMILIES`.
"""

from collections.abc import Mapping
from typing import Any

from flax_augtl.export import onnx_layers as layers
from flax_augtl.export.onnx_graph import Graph, Value
from flax_augtl.export.settings import ExportError
from flax_augtl.models import alexnet
from flax_augtl.models.resnet import ResNet
from flax_augtl.models.vgg import POOLED, VGG


def add_groups(graph: Graph, module: Any, variables: Mapping[str, Any], x: Value, start: int, stop: int) -> Value:
    """Add the layer groups[start:stop] of a source network.

    Args:
      graph: to add to.
      module: of the source network.
      variables: {"params": {group: ...}, "batch_stats": {group: ...}} of the source network.
      x: what `groups[:start]` gave.
      start: index of the first group.
      stop: index after the last one.

    Raises:
      ExportError: there is no function for this family.
    """
    if type(module) not in FAMILIES:
        raise ExportError(
            f"Networks of the family {type(module).__name__} cannot be written as ONNX yet. "
            "--format=stablehlo works for all."
        )
    for group in module.groups[start:stop]:
        params, statistics = (variables.get(name, {}).get(group, {}) for name in ("params", "batch_stats"))
        x = FAMILIES[type(module)](graph, module, group, {"params": params, "batch_stats": statistics}, x)
    return x


def _below(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {collection: leaves.get(name, {}) for collection, leaves in tree.items()}


def _resnet(graph: Graph, module: ResNet, group: str, tree: Mapping[str, Any], x: Value) -> Value:
    if group == "fc":
        return layers.dense(graph, x, "fc", tree["params"])
    if group == "stem":
        stride = 2 if module.stem == "imagenet" else 1
        x = layers.relu(graph, _unit(graph, module, tree, "conv1", x, prefix="stem", stride=stride))
        return layers.max_pool(graph, x, 3, 2, 1) if module.stem == "imagenet" else x
    stage, _, block = group.removeprefix("layer").partition(".")
    index = int(stage) - 1
    for number in [block] if block else map(str, range(module.stage_sizes[index])):
        stride = 2 if index and number == "0" else 1
        x = _block(graph, module, tree if block else _below(tree, number), f"layer{stage}.{number}", x, stride)
    last = index == len(module.stage_sizes) - 1 and block in ("", str(module.stage_sizes[index] - 1))
    return layers.mean_over_space(graph, x) if last else x


def _unit(
    graph: Graph, module: ResNet, tree: Mapping[str, Any], conv: str, x: Value, *, prefix: str, stride: int
) -> Value:
    """A convolution and its batch norm."""
    x = layers.conv(graph, x, f"{prefix}.{conv}", tree["params"][conv], stride)
    norm = conv.replace("conv", "bn")
    return layers.batch_norm(
        graph, x, f"{prefix}.{norm}", tree["params"][norm], tree["batch_stats"][norm], module.epsilon
    )


def _block(graph: Graph, module: ResNet, tree: Mapping[str, Any], name: str, x: Value, stride: int) -> Value:
    if module.block == "basic":
        strides = (stride, 1)
    else:
        strides = (stride, 1, 1) if module.v1_stride else (1, stride, 1)
    y = x
    for number, each in enumerate(strides, start=1):
        y = _unit(graph, module, tree, f"conv{number}", y, prefix=name, stride=each)
        y = layers.relu(graph, y) if number < len(strides) else y
    if module.shortcut != "projection":
        new = y.shape[0] - x.shape[0]
        x = layers.padded_shortcut(graph, x, y.shape[0], stride, new // 2 if module.shortcut == "pad" else 0)
    elif "downsample_conv" in tree["params"]:
        x = _unit(graph, module, tree, "downsample_conv", x, prefix=name, stride=stride)
    return layers.relu(graph, layers.total(graph, x, y))


def _vgg(graph: Graph, module: VGG, group: str, tree: Mapping[str, Any], x: Value) -> Value:
    if not group.startswith("conv"):
        x = layers.dense(graph, x, group, tree["params"])
        return x if group == "fc8" else layers.relu(graph, x)
    index = int(group.removeprefix("conv")) - 1
    for number in range(module.convs[index]):
        x = layers.conv(graph, x, f"{group}.conv{number}", tree["params"][f"conv{number}"])
        if module.batch_norm:
            norm = f"bn{number}"
            x = layers.batch_norm(
                graph, x, f"{group}.{norm}", tree["params"][norm], tree["batch_stats"][norm], module.epsilon
            )
        x = layers.relu(graph, x)
    x = layers.max_pool(graph, x, 2, 2)
    if index < len(module.convs) - 1:
        return x
    if module.global_pool:
        return layers.mean_over_space(graph, x)
    return layers.flat(graph, layers.adaptive_average_pool(graph, x, POOLED))


def _alexnet(graph: Graph, module: alexnet.AlexNet, group: str, tree: Mapping[str, Any], x: Value) -> Value:
    if not group.startswith("conv"):
        x = layers.dense(graph, x, group, tree["params"])
        return x if group == "fc8" else layers.relu(graph, x)
    index = int(group.removeprefix("conv")) - 1
    _, stride, pad, pool = module.geometry()[index]
    x = layers.relu(graph, layers.conv(graph, x, f"{group}.conv0", tree["params"]["conv0"], stride, pad))
    x = layers.max_pool(graph, x, alexnet.POOL, alexnet.POOL_STRIDE) if pool else x
    if index < len(module.widths) - 1:
        return x
    return layers.flat(graph, layers.adaptive_average_pool(graph, x, alexnet.POOLED))


FAMILIES = {ResNet: _resnet, VGG: _vgg, alexnet.AlexNet: _alexnet}
