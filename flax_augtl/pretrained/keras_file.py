"""Reads the HDF5 files of keras.applications' ResNet50/101/152 and VGG16/19; nothing of Keras is executed.

There are two ways in which Keras keeps weights. The older .h5 has a group a layer, whose attribute `weight_names`
lists its arrays. The newer .weights.h5 (also inside .keras) has them as `layers/<class>_<n>/vars/0, 1, …`, the
layer's own name being an attribute that early versions did not write; then it is told from the order of the layers.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flax_augtl.models import MODELS
from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.tensors import Checkpoint, Tensor

_RESNET_LAYER = re.compile(r"conv(\d)_block(\d+)_(\d)_(conv|bn)")
_VGG_LAYER = re.compile(r"block(\d)_conv(\d)")
_AUTOMATIC = re.compile(r"(conv2d|batch_normalization|dense)(?:_(\d+))?")


def _attribute(group, name: str) -> list[str]:
    """Return a list of strings from an attribute that Keras may have had to cut into name0, name1, …"""
    parts = [group.attrs[name]] if name in group.attrs else []
    while f"{name}{len(parts)}" in group.attrs:
        parts.append(group.attrs[f"{name}{len(parts)}"])
    return [v.decode() if isinstance(v, bytes) else str(v) for part in parts for v in part]


def _layers(file, h5py) -> Iterator[tuple[str, list]]:
    """Yield (layer name, its datasets in Keras' order) for every layer that has weights."""
    root = file["model_weights"] if "model_weights" in file else file
    if "layer_names" in root.attrs or "layer_names0" in root.attrs:
        for layer in _attribute(root, "layer_names"):
            datasets = [root[layer][weight] for weight in _attribute(root[layer], "weight_names")]
            if datasets:
                yield layer, datasets
        return
    found = []

    def visit(path, item):
        if isinstance(item, h5py.Group) and path.endswith("/vars") and len(item) and "optimizer" not in path:
            name = item.attrs.get("name", path.split("/")[-2])
            name = name.decode() if isinstance(name, bytes) else str(name)
            found.append((name, [item[str(i)] for i in range(len(item))]))

    root.visititems(visit)
    yield from _named(found)


def _named(layers: list[tuple[str, list]]) -> list[tuple[str, list]]:
    """Replace automatic names (conv2d_3) by those that keras.applications gives the layers in that order."""
    matches = [_AUTOMATIC.fullmatch(name) for name, _ in layers]
    if not all(matches):
        return layers
    counts = {kind: sum(m[1] == kind for m in matches) for kind in ("conv2d", "batch_normalization", "dense")}
    for name in ("resnet50", "resnet101", "resnet152", "vgg16", "vgg19"):
        order = _automatic_order(name)
        if {kind: len(names) for kind, names in order.items()} == counts:
            return [
                (order[m[1]][int(m[2] or 0)], datasets) for m, (_, datasets) in zip(matches, layers, strict=True)
            ]
    return layers


def _automatic_order(name: str) -> dict[str, list[str]]:
    """Return the layers of a network by class, in the order in which Keras numbers them."""
    if name.startswith("vgg"):
        convs = MODELS[name].settings["convs"]
        return {
            "conv2d": [f"block{i + 1}_conv{j + 1}" for i, n in enumerate(convs) for j in range(n)],
            "batch_normalization": [],
            "dense": ["fc1", "fc2", "predictions"],
        }
    units = ["conv1"]
    for i, blocks in enumerate(MODELS[name].settings["stage_sizes"]):
        for j in range(blocks):
            # Keras numbers layers by their depth, and the shortcut lies beside the third convolution.
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
        # One number each for a convolution and its ReLU, one for the pooling after each block.
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
        # Keras flattens HWC where PyTorch flattens CHW; as a 7×7 convolution the matrix says which is which.
        spatial = (7, 7, dataset.shape[0] // 49, dataset.shape[1])
        permutation, shape = (3, 2, 0, 1), (spatial[3], spatial[2], 7, 7)
    offset = dataset.id.get_offset() if mapped else None

    def read():
        if offset is not None:
            array = np.memmap(mapped, dataset_dtype, "r", offset, dataset_shape)
        else:
            array = dataset[()]
        return (array if spatial is None else array.reshape(spatial)).transpose(permutation)

    dataset_dtype, dataset_shape = dataset.dtype, dataset.shape
    return Tensor(shape, dataset.dtype, read)


def _is_in(file, dataset, h5py) -> bool:
    """Tell whether an object is an array of numbers in the file that was opened, and in no other that it leads to."""
    return (isinstance(dataset, h5py.Dataset) and dataset.file.filename == file.filename and not dataset.is_virtual
            and not dataset.external and dataset.dtype.kind in "fiu")


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
        CheckpointError: h5py is not installed, or the file is damaged or no Keras file.
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
        elsewhere = [layer for layer, datasets in layers for dataset in datasets if not _is_in(file, dataset, h5py)]
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: the file is cut short or damaged ({error}). Download it again.") from error
    if elsewhere:
        raise CheckpointError(f"{path}: the arrays of layer {elsewhere[0]} are not in the file itself; an HDF5 file can "
                              "lead to any other file of yours, and that is not followed.")
    names = _torch_layers({name for name, _ in layers})
    tensors = {}
    for layer, datasets in layers:
        kinds = ("weight", "bias", "running_mean", "running_var")
        if len(datasets) > len(kinds):
            raise CheckpointError(f"{path}: layer {layer} has {len(datasets)} arrays; no layer of these networks has.")
        for kind, dataset in zip(kinds, datasets, strict=False):
            name = f"{names.get(layer, layer)}.{kind}"
            compact = dataset.chunks is None and not archived
            tensors[name] = _tensor(dataset, name, path if compact else None)
    if not tensors:
        raise CheckpointError(f"{path} is an HDF5 file, but not one that Keras wrote: it has no layers with weights.")
    return Checkpoint("Keras HDF5", tensors, {"epsilon": 1.001e-5, "v1_stride": True})
