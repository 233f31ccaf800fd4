"""Keras files in three layouts: every array is where keras.applications' code puts it."""

import json
import zipfile

import numpy as np
import pytest

from flax_augtl.models import MODELS, create_model
from flax_augtl.pretrained import CheckpointError, load_source
from flax_augtl.pretrained.convert import check, to_variables
from flax_augtl.pretrained.formats.keras_file import is_foreign
from flax_augtl.pretrained.formats.open import open_checkpoint

h5py = pytest.importorskip("h5py", reason="needs the extra `keras`")

FIVE = ("resnet50", "resnet101", "resnet152", "vgg16", "vgg19")
WIDTHS = {"resnet": (2, 3, 4, 5), "vgg": (2, 3, 4, 5, 6)}


def small(name):
    """Return the network with its own depth but very few channels, in Keras' variant."""
    family = MODELS[name].family
    settings = {"hidden": 8} if family == "vgg" else {"conv_bias": True, "v1_stride": True, "epsilon": 1.001e-5}
    return create_model(name, num_classes=3, widths=WIDTHS[family], **settings)


def keras_layers(name):
    """Yield (layer, class, [arrays in Keras' order]) in the order in which keras.applications' model has its layers.

    Written from the definition of the networks there, not from the reader. Values are unique, so no two can be swapped.
    """
    count = iter(range(10**6))

    def array(*shape):
        size = int(np.prod(shape))
        return (next(count) + np.arange(size) / (size + 1)).astype(np.float32).reshape(shape)

    if name.startswith("vgg"):
        inputs = 3
        for block, (convs, width) in enumerate(zip(MODELS[name].settings["convs"], WIDTHS["vgg"], strict=True), 1):
            for conv in range(1, convs + 1):
                yield f"block{block}_conv{conv}", "conv2d", [array(3, 3, inputs, width), array(width)]
                inputs = width
        for layer, rows, columns in (("fc1", inputs * 49, 8), ("fc2", 8, 8), ("predictions", 8, 3)):
            yield layer, "dense", [array(rows, columns), array(columns)]
        return

    def norm(layer, width):
        return layer, "batch_normalization", [array(width) for _ in range(4)]

    widths = WIDTHS["resnet"]
    yield "conv1_conv", "conv2d", [array(7, 7, 3, widths[0]), array(widths[0])]
    yield norm("conv1_bn", widths[0])
    inputs = widths[0]
    for stage, (blocks, width) in enumerate(zip(MODELS[name].settings["stage_sizes"], widths, strict=True), 2):
        for block in range(1, blocks + 1):
            layer = f"conv{stage}_block{block}"
            units = {1: (1, inputs, width), 2: (3, width, width), 0: (1, inputs, 4 * width), 3: (1, width, 4 * width)}
            if block > 1:
                del units[0]
            # Functional models order layers by depth: the shortcut's convolution stands beside the third one.
            for unit, (size, before, after) in units.items():
                yield f"{layer}_{unit}_conv", "conv2d", [array(size, size, before, after), array(after)]
                yield norm(f"{layer}_{unit}_bn", after)
            inputs = 4 * width
    yield "predictions", "dense", [array(inputs, 3), array(3)]


PARTS = {
    "conv2d": ["kernel", "bias"],
    "dense": ["kernel", "bias"],
    "batch_normalization": ["gamma", "beta", "moving_mean", "moving_variance"],
}


def write_legacy(path, layers, root=None):
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        names = [name for name, _, _ in layers]
        # Long lists are cut in several attributes, since HDF5 limits the size of one.
        half = len(names) // 2
        group.attrs["layer_names0"] = [n.encode() for n in names[:half]]
        group.attrs["layer_names1"] = [n.encode() for n in names[half:]]
        for name, kind, arrays in layers:
            sub = group.create_group(name)
            sub.attrs["weight_names"] = [f"{name}/{part}:0".encode() for part in PARTS[kind]]
            for part, array in zip(PARTS[kind], arrays, strict=True):
                sub[f"{name}/{part}:0"] = array


def write_new(path, layers, named=True):
    counts = {}
    with h5py.File(path, "w") as file:
        file.create_group("layers/activation/vars")
        for name, kind, arrays in layers:
            number = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{kind}_{number}/vars" if number else f"layers/{kind}/vars")
            if named:
                group.attrs["name"] = name
            for i, array in enumerate(arrays):
                group[str(i)] = array


def write(kind, path, layers):
    match kind:
        case "legacy weights":
            write_legacy(path, layers)
        case "legacy model":
            write_legacy(path, layers, "model_weights")
        case "weights.h5":
            write_new(path, layers)
        case "weights.h5 without names":
            write_new(path, layers, named=False)
        case ".keras":
            inner = path.with_suffix(".inner")
            write_new(inner, layers)
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("config.json", json.dumps({"class_name": "Functional"}))
                archive.write(inner, "model.weights.h5")


KINDS = ("legacy weights", "legacy model", "weights.h5", "weights.h5 without names", ".keras")
# The order of unnamed layers depends on the depth; the layout of a file does not.
CASES = [(name, kind) for name in FIVE for kind in KINDS if name in ("resnet50", "vgg16") or "without" in kind]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_array_is_in_its_place(tmp_path, name, kind):
    layers = list(keras_layers(name))
    write(kind, tmp_path / "w", layers)
    tensors = open_checkpoint(tmp_path / "w").tensors
    slots = small(name).slots()
    assert not check(tensors, slots)
    params = to_variables(tensors, slots)
    arrays = {layer: values for layer, _, values in layers}
    if name.startswith("vgg"):
        last = MODELS[name].settings["convs"][-1]
        group = params["params"]["conv5"][f"conv{last - 1}"]
        np.testing.assert_array_equal(group["kernel"], arrays[f"block5_conv{last}"][0])
        np.testing.assert_array_equal(group["bias"], arrays[f"block5_conv{last}"][1])
        # Keras' row h·W·C + w·C + c of fc1 is row c·H·W + h·W + w of fc6.
        rows = arrays["fc1"][0].reshape(7, 7, 6, 8).transpose(2, 0, 1, 3).reshape(-1, 8)
        np.testing.assert_array_equal(params["params"]["fc6"]["kernel"], rows)
        np.testing.assert_array_equal(params["params"]["fc7"]["kernel"], arrays["fc2"][0])
        np.testing.assert_array_equal(params["params"]["fc8"]["bias"], arrays["predictions"][1])
        return
    blocks = MODELS[name].settings["stage_sizes"]
    for stage, block in ((0, 0), (2, blocks[2] - 1), (3, 0)):
        ours = params["params"][f"layer{stage + 1}"][str(block)]
        statistics = params["batch_stats"][f"layer{stage + 1}"][str(block)]
        theirs = f"conv{stage + 2}_block{block + 1}"
        units = {"conv1": 1, "conv2": 2, "conv3": 3} | ({"downsample_conv": 0} if block == 0 else {})
        for unit, number in units.items():
            norm = unit.replace("conv", "bn")
            np.testing.assert_array_equal(ours[unit]["kernel"], arrays[f"{theirs}_{number}_conv"][0])
            np.testing.assert_array_equal(ours[unit]["bias"], arrays[f"{theirs}_{number}_conv"][1])
            gamma, beta, mean, variance = arrays[f"{theirs}_{number}_bn"]
            np.testing.assert_array_equal(ours[norm]["scale"], gamma)
            np.testing.assert_array_equal(ours[norm]["bias"], beta)
            np.testing.assert_array_equal(statistics[norm]["mean"], mean)
            np.testing.assert_array_equal(statistics[norm]["var"], variance)


def test_layers_of_other_networks_keep_their_names(tmp_path):
    write_legacy(tmp_path / "w", [*keras_layers("vgg16"), ("block1_sepconv1", "conv2d", [np.ones(3), np.ones(3)])])
    problems = check(open_checkpoint(tmp_path / "w").tensors, small("vgg16").slots())
    assert problems == ["unexpected (2):", "  block1_sepconv1.weight [3]", "  block1_sepconv1.bias [3]"]


def test_hdf5_that_is_not_kerass(tmp_path):
    with h5py.File(tmp_path / "w", "w") as file:
        file["table"] = np.zeros(3)
    with pytest.raises(CheckpointError, match="is an HDF5 file, but not one that Keras wrote"):
        open_checkpoint(tmp_path / "w")


def test_a_truncated_file(tmp_path):
    write_legacy(tmp_path / "w", list(keras_layers("vgg16")))
    whole = (tmp_path / "w").read_bytes()
    (tmp_path / "w").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        open_checkpoint(tmp_path / "w")


@pytest.mark.parametrize("way", ["external storage", "virtual dataset", "link"])
def test_arrays_of_other_files_are_not_read(tmp_path, way):
    secret = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "secret").write_bytes(secret.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = secret
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = ["fc1"]
        group = file.create_group("fc1")
        group.attrs["weight_names"] = ["kernel"]
        if way == "link":
            group["kernel"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")
        elif way == "virtual dataset":
            layout = h5py.VirtualLayout((2, 3), np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (2, 3))
            group.create_virtual_dataset("kernel", layout)
        else:
            group.create_dataset("kernel", (2, 3), np.float32, external=[(str(tmp_path / "secret"), 0, 24)])
    with pytest.raises(CheckpointError, match="the arrays of layer fc1 are not in the file itself"):
        open_checkpoint(tmp_path / "w.h5")


def write_nested(path, kind, base, head):
    """Write a model of a base network as one layer, and dense layers on it."""
    if kind == "legacy":
        with h5py.File(path, "w") as file:
            group = file.create_group("model_weights")
            group.attrs["layer_names"] = [b"base", *(name.encode() for name, _, _ in head)]
            # All trainable arrays come first, then all statistics.
            flat = [
                (f"{name}/{part}:0", array)
                for name, layer_kind, arrays in base
                for part, array in zip(PARTS[layer_kind], arrays, strict=True)
            ]
            flat.sort(key=lambda pair: "moving" in pair[0])
            for layer, arrays in (
                ("base", flat),
                *(
                    (name, [(f"{name}/{part}:0", array) for part, array in zip(PARTS[layer_kind], arrays, strict=True)])
                    for name, layer_kind, arrays in head
                ),
            ):
                sub = group.create_group(layer)
                sub.attrs["weight_names"] = [name.encode() for name, _ in arrays]
                for name, array in arrays:
                    sub[name] = array
        return
    named, counts = kind == ".keras", {}
    with h5py.File(path, "w") as file:
        for parent, layers in (("layers/functional/layers", base), ("layers", head)):
            counts = {}
            for name, layer_kind, arrays in layers:
                number = counts[layer_kind] = counts.get(layer_kind, -1) + 1
                group = file.create_group(f"{parent}/{layer_kind}{f'_{number}' * bool(number)}/vars")
                if named:
                    group.attrs["name"] = name
                for i, array in enumerate(arrays):
                    group[str(i)] = array


@pytest.mark.parametrize("name", ["resnet50", "vgg16"])
@pytest.mark.parametrize("kind", ["legacy", ".keras", "without names"])
def test_a_transfer_model_gives_its_base(tmp_path, name, kind):
    base = [layer for layer in keras_layers(name) if layer[1] != "dense"]
    head = [
        ("dense", "dense", [np.ones((20, 9), np.float32), np.ones(9, np.float32)]),
        ("batch_normalization", "batch_normalization", [np.ones(9, np.float32)] * 4),
        ("predictions", "dense", [np.ones((9, 2), np.float32), np.ones(2, np.float32)]),
    ]
    write_nested(tmp_path / "w", kind, base, head)
    tensors = {key: value for key, value in open_checkpoint(tmp_path / "w").tensors.items() if not is_foreign(key)}
    settings = {"global_pool": True} if name == "vgg16" else {}
    slots = small(name).clone(num_classes=None, **settings).slots()
    assert not check(tensors, slots)
    arrays = {layer: values for layer, _, values in base}
    layer, ours = (
        ("block3_conv2", "features.12.bias") if name == "vgg16" else ("conv4_block3_2_conv", "layer3.2.conv2.bias")
    )
    np.testing.assert_array_equal(tensors[ours].read(), arrays[layer][1])
    if name == "resnet50":
        np.testing.assert_array_equal(tensors["layer1.1.bn3.running_var"].read(), arrays["conv2_block2_3_bn"][3])


@pytest.mark.parametrize("named", [True, False])
def test_a_network_without_its_top(tmp_path, named):
    # include_top=False, at full width.
    random = np.random.RandomState(0)
    path, widths, inputs, layers = tmp_path / "w.weights.h5", (64, 128, 256, 512, 512), 3, []
    for block, (convs, width) in enumerate(zip(MODELS["vgg16"].settings["convs"], widths, strict=True), 1):
        for conv in range(1, convs + 1):
            kernel = random.standard_normal((3, 3, inputs, width)).astype(np.float32)
            layers.append((f"block{block}_conv{conv}", "conv2d", [kernel, np.full(width, conv, np.float32)]))
            inputs = width
    write_new(path, [*layers, ("dense", "dense", [np.ones((512, 3), np.float32), np.ones(3, np.float32)])], named)
    source = load_source(None, path)
    assert source.name == "vgg16" and source.groups == ("conv1", "conv2", "conv3", "conv4", "conv5")
    assert source.preprocess.channel_order == "BGR"
    np.testing.assert_array_equal(source.variables["params"]["conv5"]["conv2"]["kernel"], layers[-1][2][0])
    assert source.notes == (
        f"{path}: 2 tensors of another head than a classification layer are left out: dense.weight, dense.bias.",
        f"{path}: it has no fc6 and fc7: the head reads conv5, averaged over space.",
    )


def test_two_networks_in_one_model_are_refused(tmp_path):
    base = [layer for layer in keras_layers("vgg16") if layer[1] != "dense"]
    write_legacy(tmp_path / "w", base)
    with h5py.File(tmp_path / "w", "a") as file:
        file.attrs["layer_names2"] = [b"block1_conv2"]
    with pytest.raises(CheckpointError, match="holds several networks: block1_conv2 is in it more than once"):
        open_checkpoint(tmp_path / "w")
