"""A checkpoint becomes exactly the variables in it, with their preprocessing, class names and terms."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from flax_augtl.models import create_model
from flax_augtl.pretrained import CheckpointError, Preprocessing, load_source, to_state_dict, write_safetensors
from flax_augtl.pretrained.class_names import imagenet_names

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")


def same_trees(a, b):
    a, b = flatten_dict(a), flatten_dict(b)
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_every_tensor_is_in_its_place_and_transposed(tmp_path, state_dict):
    save_file(state_dict, tmp_path / "w.safetensors")
    source = load_source("resnet20", tmp_path / "w.safetensors")
    params, statistics = source.variables["params"], source.variables["batch_stats"]
    for ours, theirs in (
        (params["stem"]["conv1"]["kernel"], state_dict["conv1.weight"].transpose(2, 3, 1, 0)),
        (params["layer2"]["0"]["downsample_conv"]["kernel"], state_dict["layer2.0.downsample.0.weight"].T),
        (params["layer3"]["2"]["bn2"]["scale"], state_dict["layer3.2.bn2.weight"]),
        (statistics["layer3"]["2"]["bn2"]["mean"], state_dict["layer3.2.bn2.running_mean"]),
        (statistics["layer2"]["0"]["downsample_bn"]["var"], state_dict["layer2.0.downsample.1.running_var"]),
        (params["fc"]["kernel"], state_dict["fc.weight"].T),
        (params["fc"]["bias"], state_dict["fc.bias"]),
    ):
        np.testing.assert_array_equal(np.squeeze(ours), np.squeeze(theirs))
        assert isinstance(ours, jax.Array) and ours.dtype == jnp.float32
    # Nothing is left out: the tree equals the one that the module itself makes.
    shapes = jax.eval_shape(source.model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert jax.tree.map(jnp.shape, source.variables) == jax.tree.map(jnp.shape, dict(shapes))
    assert source.groups == source.model.groups == ("stem", "layer1", "layer2", "layer3", "fc")


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_to_state_dict_is_the_inverse(tmp_path, name, draw):
    tensors = draw(create_model(name, num_classes=3), seed=1)
    save_file(tensors, tmp_path / "w.safetensors")
    back = to_state_dict(name, load_source(name, tmp_path / "w.safetensors").variables)
    assert list(back) == list(tensors)
    for key, value in tensors.items():
        np.testing.assert_array_equal(back[key], value)
        assert back[key].flags.c_contiguous and back[key].flags.writeable


@pytest.mark.parametrize(
    ("name", "settings"),
    [("resnet50", {"conv_bias": True}), ("vgg13", {}), ("vgg11_bn", {}), ("resnet34", {"num_classes": None})],
)
def test_the_written_layout_is_the_modules_own(name, settings):
    model = create_model(name, **settings)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    leaves = {path: leaf.shape for path, leaf in flatten_dict(dict(shapes)).items()}
    turned = {"conv": (2, 3, 1, 0), "dense": (1, 0), "vector": (0,)}
    written = {s.path: tuple(s.shape[i] for i in turned[s.type]) for s in model.slots().values()}
    assert written == leaves


def test_to_state_dict_refuses_another_networks_variables():
    variables = load_source("resnet20", num_classes=3).variables
    message = r"not the variables of resnet32\.\nmissing \(60\):\n  params/layer1/3/conv1/kernel"
    with pytest.raises(ValueError, match=message):
        to_state_dict("resnet32", variables)


def test_without_weights_the_variables_are_random_and_the_same_every_time():
    a, b = load_source("resnet20", num_classes=5), load_source("resnet20", num_classes=5)
    assert same_trees(a.variables, b.variables)
    assert a.model.num_classes == 5 and len(a.class_names) == 5
    assert np.std(a.variables["params"]["layer3"]["0"]["conv1"]["kernel"]) > 0.01


def test_the_tensors_show_the_network(tmp_path, draw):
    for name in ("resnet20", "resnet44"):
        save_file(draw(create_model(name, num_classes=2)), tmp_path / "w.safetensors")
        assert load_source(None, tmp_path / "w.safetensors").name == name


def test_a_checkpoints_class_count_wins(tmp_path, state_dict):
    save_file(state_dict, tmp_path / "w.safetensors")
    source = load_source("resnet20", tmp_path / "w.safetensors", num_classes=1000)
    assert source.model.num_classes == 7 and source.class_names == tuple(f"class {i}" for i in range(7))


def test_the_classification_layer_can_be_left_out(tmp_path, state_dict):
    headless = {k: v for k, v in state_dict.items() if not k.startswith("fc.")}
    for tensors, classes in ((state_dict, None), (headless, None), (headless, 1000)):
        save_file(tensors, tmp_path / "w.safetensors")
        source = load_source("resnet20", tmp_path / "w.safetensors", num_classes=classes)
        assert "fc" not in source.variables["params"] and source.class_names == () and "fc" not in source.groups
    # Half of the layer is an error.
    save_file({**headless, "fc.weight": state_dict["fc.weight"]}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"missing \(1\):\n  fc.bias"):
        load_source("resnet20", tmp_path / "w.safetensors")


def test_a_thousand_classes_have_imagenets_names():
    names = imagenet_names()
    assert len(set(names)) == 1000
    assert (names[0], names[309], names[310], names[999]) == ("tench", "bee", "ant", "toilet tissue")
    assert load_source("resnet20").class_names == names


def test_a_file_of_this_program_describes_itself(tmp_path):
    source = load_source("resnet20", num_classes=7)
    preprocess = Preprocessing(image_size=40, crop_fraction=1.0, mean=(0.1, 0.2, 0.3), interpolation="bicubic")
    path = tmp_path / "own.safetensors"
    write_safetensors(
        path,
        "resnet20",
        source.variables,
        preprocess,
        NAMES,
        settings={"epsilon": 1e-3},
        terms={"licence": "CC BY 4.0", "attribution": "someone", "origin": "there"},
    )
    read = load_source(None, path)
    assert (read.name, read.preprocess, read.class_names) == ("resnet20", preprocess, NAMES)
    assert read.model.epsilon == 1e-3
    assert read.terms["licence"] == "CC BY 4.0" and read.terms["attribution"] == "someone"
    assert read.terms["origin"] == "there" and read.terms["file"] == "own.safetensors"
    assert same_trees(read.variables, source.variables)
    assert not list(tmp_path.glob("*.partial"))
    # The notes may also lie beside the file, for tools that drop a safetensors file's metadata.
    plain = tmp_path / "plain.safetensors"
    save_file(load_file(path), plain)
    (tmp_path / "plain.json").write_text(
        json.dumps({"network": "resnet20", "preprocessing": preprocess.to_json(), "class_names": NAMES})
    )
    beside = load_source(None, plain)
    assert (beside.preprocess, beside.class_names) == (preprocess, NAMES)


def test_a_licence_in_the_metadata_is_kept(tmp_path, state_dict):
    save_file(state_dict, tmp_path / "w.safetensors", {"license": "mit", "author": "someone", "step": "7"})
    terms = load_source("resnet20", tmp_path / "w.safetensors").terms
    assert terms["licence"] == "mit" and terms["attribution"] == "someone" and "step" not in terms


def test_the_cifar_networks_are_not_cropped():
    assert load_source("resnet20", num_classes=2).preprocess.resize_size == 32
    x = load_source("resnet20", num_classes=2).preprocess([np.zeros((50, 60, 3), np.uint8)])
    assert x.shape == (1, 32, 32, 3) and x.dtype == jnp.float32


def test_half_precision_is_read_as_float32(tmp_path, state_dict):
    import ml_dtypes

    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        tensors = {k: v.astype(dtype) for k, v in state_dict.items()}
        save_file(tensors, tmp_path / "w.safetensors")
        source = load_source("resnet20", tmp_path / "w.safetensors")
        kernel = source.variables["params"]["fc"]["kernel"]
        assert kernel.dtype == jnp.float32
        np.testing.assert_array_equal(kernel, tensors["fc.weight"].astype(np.float32).T)


def test_dtype_and_axis_name_are_passed_on(tmp_path, state_dict):
    save_file(state_dict, tmp_path / "w.safetensors")
    model = load_source("resnet20", tmp_path / "w.safetensors", dtype="bfloat16", axis_name="batch").model
    assert model == create_model("resnet20", num_classes=7, dtype=jnp.bfloat16, axis_name="batch")
