"""Reads the HDF5 files of keras.applications' ResNet50/101/152 and VGG16/19, without Keras.

A network may be a part of another model, for example below new layers: its layers are found by their names.

Keras keeps weights in two ways. The older .h5 has one group per layer, whose attribute `weight_names` lists its arrays.
The newer .weights.h5 (also inside .keras) has them as `layers/<class>_<n>/vars/0, 1, …`. There the layer's own name is
an attribute that early versions did not write; then the order of the layers tells it.
"""

import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_augtl.models import MODELS
from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.formats.lazy_tensor import Checkpoint, Storage, Tensor

_RESNET_LAYER = re.compile(r"conv(\d)_block(\d+)_(\d)_(conv|bn)")
_VGG_LAYER = re.compile(r"block(\d)_conv(\d)")
_PARTS = ("weight", "bias", "running_mean", "running_var")  # In Keras' order.
_PART_OF = {
    "kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_AUTOMATIC = re.compile(r"(conv2d|batch_normalization|dense)(?:_(\d+))?")


def _attribute(group, name: str) -> list[str]:
    """Return a list of strings from an attribute, which Keras cuts into name0, name1, … if it is too long."""
    parts = [group.attrs[name]] if name in group.attrs else []
    while f"{name}{len(parts)}" in group.attrs:
        parts.append(group.attrs[f"{name}{len(parts)}"])
    return [v.decode() if isinstance(v, bytes) else str(v) for part in parts for v in part]


def _layers(file, h5py) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (layer name, its arrays by PyTorch's names such as "weight") for every layer that has weights."""
    root = file["model_weights"] if "model_weights" in file else file
    if "layer_names" in root.attrs or "layer_names0" in root.attrs:
        for layer in _attribute(root, "layer_names"):
            weights = _attribute(root[layer], "weight_names")
            if len(weights) > len(_PARTS):
                yield from _nested(layer, {weight: root[layer][weight] for weight in weights})
            elif weights:
                yield layer, dict(zip(_PARTS, (root[layer][weight] for weight in weights), strict=False))
        return
    models: dict[str, list] = {}

    def visit(path, item):
        if isinstance(item, h5py.Group) and path.endswith("/vars") and len(item) and "optimizer" not in path:
            name = item.attrs.get("name", path.split("/")[-2])
            name = name.decode() if isinstance(name, bytes) else str(name)
            datasets = [item[str(i)] for i in range(len(item))]
            if len(datasets) <= len(_PARTS):  # No layer of a supported network has more.
                models.setdefault(path.rpartition("/vars")[0].rpartition("/")[0], []).append(
                    (name, dict(zip(_PARTS, datasets, strict=False)))
                )

    root.visititems(visit)
    for layers in models.values():
        yield from _named(layers)


def _nested(model: str, datasets: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the layers of a model that is a layer of another, whose arrays are called "conv1_conv/kernel:0"."""
    layers: dict[str, dict[str, Any]] = {}
    for weight, dataset in datasets.items():
        *_, layer, part = (model, *weight.partition(":")[0].split("/"))
        layers.setdefault(layer, {})[_PART_OF.get(part, part)] = dataset
    yield from layers.items()


def _named(layers: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Replace automatic names (conv2d_3) by the names that keras.applications gives the layers in that order."""
    matches = [_AUTOMATIC.fullmatch(name) for name, _ in layers]
    counts = {
        layer: sum(m is not None and m[1] == layer for m in matches)
        for layer in ("conv2d", "batch_normalization", "dense")
    }
    for name in ("resnet50", "resnet101", "resnet152", "vgg16", "vgg19"):
        order = _automatic_order(name)
        if all(len(order[layer]) == counts[layer] for layer in ("conv2d", "batch_normalization")):
            # Another number of dense layers belongs to a head that replaced the network's own.
            order["dense"] = order["dense"] if counts["dense"] == len(order["dense"]) else []
            return [
                (order[m[1]][int(m[2] or 0)] if m and int(m[2] or 0) < len(order[m[1]]) else own, datasets)
                for m, (own, datasets) in zip(matches, layers, strict=True)
            ]
    return layers


def _automatic_order(name: str) -> dict[str, list[str]]:
    """Return the layers of a network by class, in Keras' order of numbers."""
    settings = MODELS[name].settings
    return _vgg_order(settings["convs"]) if "convs" in settings else _resnet_order(settings["stage_sizes"])


def _vgg_order(convs: Sequence[int]) -> dict[str, list[str]]:
    return {
        "conv2d": [f"block{i + 1}_conv{j + 1}" for i, n in enumerate(convs) for j in range(n)],
        "batch_normalization": [],
        "dense": ["fc1", "fc2", "predictions"],
    }


def _resnet_order(stage_sizes: Sequence[int]) -> dict[str, list[str]]:
    units = ["conv1"]
    for i, blocks in enumerate(stage_sizes):
        for j in range(blocks):
            # Keras numbers layers by their depth; the shortcut is as deep as the third convolution.
            units += [f"conv{i + 2}_block{j + 1}_{k}" for k in ((1, 2, 0, 3) if j == 0 else (1, 2, 3))]
    return {
        "conv2d": [f"{unit}_conv" for unit in units],
        "batch_normalization": [f"{unit}_bn" for unit in units],
        "dense": ["predictions"],
    }


def _torch_layers(names: set[str]) -> dict[str, str]:
    """Return torchvision's layer name for each Keras layer that has one."""
    layers = {"conv1_conv": "conv1", "conv1_bn": "bn1", "predictions": "fc"}
    blocks = sorted(match.groups() for match in map(_VGG_LAYER.fullmatch, names) if match)
    if blocks:
        # A convolution and its ReLU have a number each, and so does the pooling after each block.
        layers = {f"block{b}_conv{c}": f"features.{2 * i + int(b) - 1}" for i, (b, c) in enumerate(blocks)}
        layers |= {"fc1": "classifier.0", "fc2": "classifier.3", "predictions": "classifier.6"}
    for match in filter(None, map(_RESNET_LAYER.fullmatch, names)):
        stage, block, unit, part = match.groups()
        if unit == "0":
            last = {"conv": "downsample.0", "bn": "downsample.1"}[part]
        else:
            last = part + unit
        layers[match.group()] = f"layer{int(stage) - 1}.{int(block) - 1}.{last}"
    return layers


def _tensor(dataset, torch_name: str, mapped: Path | None) -> Tensor:
    """Wrap an HDF5 dataset, seen in PyTorch's order."""
    permutation = {4: (3, 2, 0, 1), 2: (1, 0)}.get(dataset.ndim, tuple(range(dataset.ndim)))
    shape = tuple(dataset.shape[i] for i in permutation)
    spatial = None
    if torch_name == "classifier.0.weight" and dataset.shape[0] % 49 == 0:
        # Keras flattens HWC, PyTorch flattens CHW; as a 7×7 convolution, the matrix is unambiguous.
        spatial = (7, 7, dataset.shape[0] // 49, dataset.shape[1])
        permutation, shape = (3, 2, 0, 1), (spatial[3], spatial[2], 7, 7)
    offset = dataset.id.get_offset() if mapped else None

    def read():
        if mapped is not None and offset is not None:
            array = np.memmap(mapped, dataset_dtype, "r", offset, dataset_shape)
        else:
            array = dataset[()]
        return (array if spatial is None else array.reshape(spatial)).transpose(permutation)

    dataset_dtype, dataset_shape = dataset.dtype, dataset.shape
    return Tensor(shape, dataset.dtype, read)


def _is_in(file, dataset, h5py) -> bool:
    """Tell whether an object is an array of numbers in the opened file itself, not in another that it links to."""
    return (
        isinstance(dataset, h5py.Dataset)
        and dataset.file.filename == file.filename
        and not dataset.is_virtual
        and not dataset.external
        and dataset.dtype.kind in "fiu"
    )


def _member(path: Path) -> io.BytesIO:
    """Return the HDF5 file inside a .keras archive, whole: h5py cannot map a file within a file."""
    with zipfile.ZipFile(path) as archive:
        return io.BytesIO(archive.read("model.weights.h5"))


def read_keras(path: Path, archived: bool) -> Checkpoint:
    """Open a Keras file.

    Args:
      path: of the file.
      archived: the HDF5 file is inside a .keras archive.

    Returns:
      Tensors in torchvision's names and PyTorch's order. Layers of other networks keep their Keras names.

    Raises:
      CheckpointError: h5py is not installed, or the file is damaged, or it is no Keras file.
    """
    try:
        import h5py
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a Keras file, and reading it needs h5py: pip install 'flax_augtl[keras]'."
        ) from error
    try:
        file = h5py.File(_member(path) if archived else path, "r")
        layers = list(_layers(file, h5py))
        elsewhere = [
            layer for layer, datasets in layers for dataset in datasets.values() if not _is_in(file, dataset, h5py)
        ]
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: the file is cut short or damaged ({error}). Download it again.") from error
    if elsewhere:
        raise CheckpointError(
            f"{path}: the arrays of layer {elsewhere[0]} are not in the file itself; an HDF5 file can "
            "lead to any other file of yours, and that is not followed."
        )
    names = _torch_layers({name for name, _ in layers})
    twice = {layer for layer in names if sum(name == layer for name, _ in layers) > 1}
    if twice:
        raise CheckpointError(
            f"{path} holds several networks: {min(twice)} is in it more than once. Save the one to be read by itself."
        )
    for layer in _foreign_dense(dict(layers)):
        names.pop(layer, None)
    tensors = {}
    for layer, datasets in layers:
        for part, dataset in datasets.items():
            name = f"{names.get(layer, layer)}.{part}"
            compact = dataset.chunks is None and not archived
            tensors[name] = _tensor(dataset, name, path if compact else None)
    if not tensors:
        raise CheckpointError(f"{path} is an HDF5 file, but not one that Keras wrote: it has no layers with weights.")
    return Checkpoint(Storage.KERAS, tensors)


def _foreign_dense(layers: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the dense layers of another head that have the names of the network's own dense layers."""

    def shape(layer):
        return layers[layer]["weight"].shape if "weight" in layers.get(layer, {}) else None

    if "block1_conv1" in layers:
        first, second, last = map(shape, ("fc1", "fc2", "predictions"))
        channels = max(
            (layers[layer]["weight"].shape[-1] for layer in layers if layer.startswith("block5_conv")), default=0
        )
        hidden = first[-1] if first else None
        own = (
            first is not None
            and last is not None
            and first[0] == 49 * channels
            and second == (hidden, hidden)
            and last[0] == hidden
        )
        # The published network has 512 channels there and 4096 units.
        return () if own and (channels != 512 or hidden == 4096) else ("fc1", "fc2", "predictions")
    last = [layers[layer]["weight"].shape[0] for layer in layers if re.fullmatch(r"conv5_block\d+_3_bn", layer)]
    return ("predictions",) if last and (shape("predictions") or (0,))[0] != last[-1] else ()


def is_foreign(name: str) -> bool:
    """Tell whether a tensor of `read_keras` belongs to a layer on top of the network."""
    return re.match(r"(conv1|bn1|layer\d|fc|features|classifier\.\d|conv\d|block\d|post_|pre_)[._]", name) is None
