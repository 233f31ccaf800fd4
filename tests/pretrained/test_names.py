"""Tensor names of other code, networks without a classification layer, and architectures that are not supported."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import flax_augtl
from flax_augtl.models import create_model
from flax_augtl.pretrained import CheckpointError, load_source
from flax_augtl.pretrained.__main__ import main
from flax_augtl.pretrained.convert import check
from flax_augtl.pretrained.formats.lazy_tensor import Tensor
from flax_augtl.pretrained.key_names import to_torchvision, without_other_heads
from flax_augtl.pretrained.match import model_for, require_fit
from tests import small

OTHER_HEADS = {
    "dropout and dense": ["fc.1.weight", "fc.1.bias"],
    "projector": ["projector.0.weight", "projector.1.bias"],
    "MoCo v2": ["fc.0.weight", "fc.2.weight"],
    "DINO": ["head.mlp.0.weight", "head.last_layer.weight_v"],
    "SimSiam": ["fc.0.weight", "predictor.0.weight"],
    "nothing": [],
}


@pytest.fixture
def backbone(state_dict):
    return {name: value for name, value in state_dict.items() if not name.startswith("fc.")}


def wrapped(arrays):
    return {name: Tensor.of(value) for name, value in arrays.items()}


def renamed(arrays):
    return without_other_heads(to_torchvision(wrapped(arrays))[1])[0]


@pytest.mark.parametrize("names", OTHER_HEADS.values(), ids=OTHER_HEADS)
def test_a_head_that_is_no_classification_layer_is_left_out_with_a_note(tmp_path, backbone, names):
    path = tmp_path / "w.safetensors"
    save_file({**backbone, **{name: np.ones((5, 64), np.float32) for name in names}}, path)
    source = load_source(None, path)
    assert source.name == "resnet20" and source.model.num_classes is None and source.class_names == ()
    assert source.groups == ("stem", "layer1", "layer2", "layer3")
    expected = (
        f"{path}: {len(names)} tensors of another head than a classification layer are left out: "
        f"{', '.join(sorted(names))}."
    )
    assert source.notes == ((expected,) if names else ())


@pytest.mark.slow
def test_only_heads_that_keep_the_layer_are_refused(tmp_path, backbone):
    save_file(backbone, tmp_path / "w.safetensors")
    config = small.digits_config(weights=str(tmp_path / "w.safetensors"), freeze="all", steps=1)
    run = flax_augtl.train(config, tmp_path / "run", quiet=True)
    assert run.network.groups == ("stem", "layer1", "layer2", "layer3", "head")
    config = small.digits_config(weights=str(tmp_path / "w.safetensors"), head={"preset": "kept"})
    with pytest.raises(
        ValueError,
        match="has no classification layer that could be kept: set config.head.preset to one "
        "that replaces it, such as traditional",
    ):
        flax_augtl.train(config, tmp_path / "kept", quiet=True)


def test_a_tensor_of_no_head_stays_unexpected(tmp_path, backbone):
    save_file({**backbone, "attention.weight": np.ones(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected \(1\):\n  attention.weight"):
        load_source("resnet20", tmp_path / "w.safetensors")


def test_images_cannot_be_classified_without_a_classification_layer(tmp_path, backbone, capsys):
    save_file(backbone, tmp_path / "w.safetensors")
    assert main([str(tmp_path / "w.safetensors"), "--images", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "has no classification layer: it cannot classify images" in printed.err
    assert "classes        none" in printed.out


@pytest.mark.parametrize("name", ["linear", "last_linear", "classifier", "head"])
def test_other_names_of_the_classification_layer(tmp_path, state_dict, name):
    save_file({key.replace("fc.", f"{name}."): value for key, value in state_dict.items()}, tmp_path / "w.safetensors")
    source = load_source(None, tmp_path / "w.safetensors")
    np.testing.assert_array_equal(source.variables["params"]["fc"]["bias"], state_dict["fc.bias"])
    # A layer of that name with another number of inputs is another head.
    save_file(
        {
            **{key: value for key, value in state_dict.items() if not key.startswith("fc.")},
            f"{name}.weight": np.ones((7, 9), np.float32),
            f"{name}.bias": np.ones(7, np.float32),
        },
        tmp_path / "w.safetensors",
    )
    assert load_source(None, tmp_path / "w.safetensors").model.num_classes is None


def test_transformers_without_a_classifier_nor_a_prefix(draw):
    from tests.pretrained.formats.test_formats import transformers_names

    tensors = transformers_names(draw(create_model("resnet18", num_classes=3, widths=(2, 2, 2, 2))))
    bare = {name.removeprefix("resnet."): value for name, value in tensors.items() if not name.startswith("classifier")}
    model = create_model("resnet18", num_classes=None, widths=(2, 2, 2, 2))
    assert not check(renamed(bare), model.slots())


CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


@pytest.mark.parametrize("prefix", ["0.", "", "model.0.", "state_dict.feature_extractor."])
def test_the_children_of_a_resnet_in_a_sequential(tmp_path, draw, prefix):
    # fastai: body 0, head 1; torch.nn.Sequential(*list(resnet.children())[:-1]).
    tensors = draw(create_model("resnet18", num_classes=3))
    numbered = {}
    for name, value in tensors.items():
        child, _, rest = name.partition(".")
        if child != "fc":
            numbered[f"{prefix}{CHILDREN[child]}.{rest}"] = value
    head = prefix.replace("0.", "1.") if "0." in prefix else "state_dict.head."
    path = tmp_path / "w.safetensors"
    save_file({**numbered, **({f"{head}8.weight": np.ones((3, 512), np.float32)} if prefix else {})}, path)
    source = load_source(None, path)
    assert source.name == "resnet18" and source.model.num_classes is None
    np.testing.assert_array_equal(
        source.variables["params"]["layer4"]["1"]["bn2"]["scale"], tensors["layer4.1.bn2.weight"]
    )
    assert [note for note in source.notes if f"{head}8.weight" in note] if prefix else source.notes == ()


def vgg(draw, **settings):
    return draw(create_model("vgg11", widths=(4, 4, 4, 4, 6), hidden=8, num_classes=3, **settings))


def test_old_names_of_a_vgg(draw):
    # torchvision before 2017, with its dropout first.
    tensors = vgg(draw)
    old = {
        name.replace("classifier.0", "classifier.1").replace("classifier.3", "classifier.4"): value
        for name, value in tensors.items()
    }
    assert {name: tensor.read().sum() for name, tensor in renamed(old).items()} == {
        name: value.sum() for name, value in tensors.items()
    }


def test_an_alexnet_is_no_early_vgg():
    # Its fc6 and fc7 have the names that an early VGG's have.
    tensors = renamed(shapes("alexnet"))
    assert {"classifier.1.weight", "classifier.4.weight"} <= {*tensors} == {*shapes("alexnet")}
    whole = {name: np.broadcast_to(np.float32(0), slot.shape) for name, slot in create_model("alexnet").slots().items()}
    assert require_fit(None, renamed(whole), "w") == "alexnet"


@pytest.mark.parametrize("theirs", ["features.", "", "0.0.", "state_dict.net."])
def test_the_convolutions_of_a_vgg_alone(tmp_path, draw, theirs):
    tensors = {name: value for name, value in draw(create_model("vgg11", num_classes=None, global_pool=True)).items()}
    path = tmp_path / "w.safetensors"
    save_file({name.replace("features.", theirs): value for name, value in tensors.items()}, path)
    source = load_source(None, path)
    assert source.name == "vgg11" and source.groups == ("conv1", "conv2", "conv3", "conv4", "conv5")
    assert source.notes == (f"{path}: it has no fc6 and fc7: the head reads conv5, averaged over space.",)
    np.testing.assert_array_equal(
        source.variables["params"]["conv1"]["conv0"]["kernel"], tensors["features.0.weight"].transpose(2, 3, 1, 0)
    )


def test_a_resnet18_for_cifar(tmp_path, draw):
    # kuangliu/pytorch-cifar: a first convolution of 3×3 without pooling, shortcut.0, linear.
    tensors = draw(create_model("resnet18", num_classes=10, stem="cifar"))
    path = tmp_path / "w.safetensors"
    save_file(
        {
            f"net.module.{name}".replace("downsample", "shortcut").replace("fc.", "linear."): value
            for name, value in tensors.items()
        },
        path,
    )
    source = load_source(None, path)
    assert source.name == "resnet18" and source.model.stem == "cifar" and source.preprocess.image_size == 32
    assert "3×3, at stride 1" in source.notes[0]
    # Under torchvision's names, the file does not tell whether there is pooling.
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"conv1.weight \[64, 3, 3, 3\], expected \[64, 3, 7, 7\]"):
        load_source("resnet18", path)
    # A description beside the file does.
    path.with_suffix(".json").write_text(
        '{"network": "resnet18", "preprocessing": {"image_size": 32}, "settings": {"stem": "cifar"}}'
    )
    assert load_source(None, path).model.stem == "cifar"


def refusal(arrays, name=None):
    with pytest.raises(CheckpointError) as error:
        require_fit(name, renamed(arrays), "w")
    return str(error.value).splitlines()


def shapes(name, **settings):
    return {
        slot: np.zeros(1, np.float32) if value.type == "vector" else np.broadcast_to(np.float32(0), value.shape)
        for slot, value in create_model(name, **settings).slots().items()
    }


def test_a_wide_resnet_is_named():
    tensors = shapes("resnet50")
    for name, value in tensors.items():
        if ".conv2." in name:
            tensors[name] = np.broadcast_to(np.float32(0), (2 * value.shape[0], 2 * value.shape[1], 3, 3))
        elif ".conv1." in name:
            tensors[name] = np.broadcast_to(np.float32(0), (2 * value.shape[0], value.shape[1], 1, 1))
    assert refusal(tensors)[0] == (
        "w fits no network that is known here. It looks like a Wide ResNet, with blocks 2 times as wide inside, which is "
        "not supported. The nearest is resnet50, from which it differs:"
    )
    assert refusal(tensors, "resnet50")[0] == (
        "w does not fit resnet50. It looks like a Wide ResNet, with blocks 2 times as wide inside, which is not supported."
    )


def test_other_architectures_are_named():
    tensors = shapes("resnet50")
    grouped = {
        name: np.broadcast_to(np.float32(0), (4 * value.shape[0], 4, 3, 3))
        if ".conv2." in name
        else np.broadcast_to(np.float32(0), (4 * value.shape[0], *value.shape[1:]))
        if ".conv1." in name
        else value
        for name, value in tensors.items()
    }
    assert "a ResNeXt, with 64 groups" in refusal(grouped)[0]
    assert "such as an SE-ResNet" in refusal({**tensors, "layer1.0.se.fc1.weight": tensors["bn1.weight"]})[0]
    stem = {**tensors, "conv1.0.weight": tensors["conv1.weight"]}
    del stem["conv1.weight"]
    assert "a ResNet-C or ResNet-D" in refusal(stem)[0]
    assert "a ResNet with 2, 2, 2, 2 bottleneck blocks" in refusal(shapes("resnet50", stage_sizes=(2, 2, 2, 2)))[0]
    alexnet = {"features.0.weight": np.zeros((64, 3, 11, 11), np.float32), "features.3.weight": np.zeros((1, 1, 5, 5))}
    assert "It looks like an AlexNet" in refusal(alexnet)[0]
    vit = {"patch_embed.proj.weight": np.zeros((2, 3, 16, 16)), "blocks.0.attn.qkv.weight": np.zeros((6, 2))}
    assert refusal(vit) == [
        "w fits no network that is known here: its tensors (patch_embed.proj.weight, "
        "blocks.0.attn.qkv.weight, …) have the names of no ResNet, VGG or AlexNet. It looks like a vision "
        "transformer, not like a ResNet, a VGG or an AlexNet."
    ]


def test_a_large_resnet_without_its_projections_is_incomplete():
    tensors = {name: value for name, value in shapes("resnet18").items() if "downsample" not in name}
    assert refusal(tensors, "resnet18")[1] == "missing (15):"
    assert model_for("resnet18", wrapped(tensors)).shortcut == "projection"
