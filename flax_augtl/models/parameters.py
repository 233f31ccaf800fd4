"""Where each tensor of a network is: its name in torchvision's state dict, and its place in the Linen tree."""

import dataclasses

from flax_augtl.models import MODELS
from flax_augtl.models.base import SourceNetwork
from flax_augtl.models.resnet import EXPANSION, ResNet
from flax_augtl.models.vgg import POOLED, VGG


@dataclasses.dataclass(frozen=True)
class Slot:
    """One tensor of a network.

    Attributes:
      path: its keys in the tree of variables, collection first.
      kind: "conv" (OIHW there, HWIO here), "dense" ([out, in] there, [in, out] here) or "vector".
      shape: its shape in torchvision's order.
    """

    path: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]


def _conv(slots, torch_name, path, shape, bias):
    slots[f"{torch_name}.weight"] = Slot(("params", *path, "kernel"), "conv", shape)
    if bias:
        slots[f"{torch_name}.bias"] = Slot(("params", *path, "bias"), "vector", shape[:1])


def _norm(slots, torch_name, path, width):
    for collection, theirs, ours in (
        ("params", "weight", "scale"),
        ("params", "bias", "bias"),
        ("batch_stats", "running_mean", "mean"),
        ("batch_stats", "running_var", "var"),
    ):
        slots[f"{torch_name}.{theirs}"] = Slot((collection, *path, ours), "vector", (width,))


def _dense(slots, torch_name, path, outputs, inputs):
    slots[f"{torch_name}.weight"] = Slot(("params", *path, "kernel"), "dense", (outputs, inputs))
    slots[f"{torch_name}.bias"] = Slot(("params", *path, "bias"), "vector", (outputs,))


def _resnet_slots(model: ResNet) -> dict[str, Slot]:
    slots = {}

    def unit(torch_conv, torch_norm, path, name, shape):
        _conv(slots, torch_conv, (*path, name), shape, model.conv_bias)
        _norm(slots, torch_norm, (*path, name.replace("conv", "bn")), shape[0])

    size = 7 if model.stem == "imagenet" else 3
    inputs = model.widths[0]
    unit("conv1", "bn1", ("stem",), "conv1", (inputs, 3, size, size))
    for i, (blocks, width) in enumerate(zip(model.stage_sizes, model.widths, strict=True)):
        outputs = width * EXPANSION[model.block]
        for j in range(blocks):
            name, path = f"layer{i + 1}.{j}", (f"layer{i + 1}", str(j))
            if model.block == "basic":
                shapes = [(width, inputs, 3, 3), (width, width, 3, 3)]
            else:
                shapes = [(width, inputs, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1)]
            for k, shape in enumerate(shapes, 1):
                unit(f"{name}.conv{k}", f"{name}.bn{k}", path, f"conv{k}", shape)
            if j == 0 and model.shortcut == "projection" and (i > 0 or inputs != outputs):
                unit(f"{name}.downsample.0", f"{name}.downsample.1", path, "downsample_conv", (outputs, inputs, 1, 1))
            inputs = outputs
    if model.num_classes:
        _dense(slots, "fc", ("fc",), model.num_classes, inputs)
    return slots


def _vgg_slots(model: VGG) -> dict[str, Slot]:
    slots = {}
    # torchvision numbers every layer of `features`, those without tensors too: convolution, batch norm, ReLU, pool.
    index, inputs = 0, 3
    for i, (convs, width) in enumerate(zip(model.convs, model.widths, strict=True)):
        for j in range(convs):
            _conv(slots, f"features.{index}", (f"conv{i + 1}", f"conv{j}"), (width, inputs, 3, 3), True)
            if model.batch_norm:
                _norm(slots, f"features.{index + 1}", (f"conv{i + 1}", f"bn{j}"), width)
            index += 3 if model.batch_norm else 2
            inputs = width
        index += 1
    if not model.global_pool:
        _dense(slots, "classifier.0", ("fc6",), model.hidden, inputs * POOLED**2)
        _dense(slots, "classifier.3", ("fc7",), model.hidden, model.hidden)
        inputs = model.hidden
    if model.num_classes:
        _dense(slots, "classifier.6", ("fc8",), model.num_classes, inputs)
    return slots


def layout(model: SourceNetwork) -> dict[str, Slot]:
    """Return the slot of every tensor of `model`, keyed by torchvision's name, in torchvision's order.

    It is written down rather than traced from the module, because tracing a deep ResNet costs more than reading it.
    """
    if isinstance(model, ResNet):
        return _resnet_slots(model)
    assert isinstance(model, VGG)
    return _vgg_slots(model)


def classifier_tensors(name: str) -> tuple[str, str]:
    """Return torchvision's names of the classification layer's weight and bias in the network `name`."""
    layer = {"resnet": "fc", "vgg": "classifier.6"}[MODELS[name].family]
    return f"{layer}.weight", f"{layer}.bias"
