"""Every registered network has its published parameters, groups and widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_augtl.models import MODELS, create_model, model_names
from flax_augtl.models.resnet import padded_shortcut
from flax_augtl.pretrained import random_variables

# With 1000 classes as published by torchvision; the CIFAR type with 10 classes and projection shortcuts.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "alexnet": 61_100_840,
    "resnet20": 272_474,
    "resnet32": 466_906,
    "resnet44": 661_338,
    "resnet56": 855_770,
    "resnet110": 1_730_714,
}
# Of the original paper's networks for CIFAR-10, whose shortcuts have no parameters; its table 6 rounds these.
WITHOUT_PROJECTIONS = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}


def _shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), _images(model))


def _images(model):
    size = max(32, model.smallest_image)
    return jnp.zeros((1, size, size, 3))


def test_every_network_is_in_the_table():
    assert set(PARAMETERS) == set(MODELS) == set(model_names())


@pytest.mark.parametrize("name", MODELS)
def test_parameters_groups_and_widths(name):
    entry = MODELS[name]
    model = create_model(name, num_classes=1000 if entry.image_size == 224 else 10)
    shapes = _shapes(model)
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"])) == PARAMETERS[name]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("float32")}
    # The top-level keys of the trees are the groups: freezing and cutting work by them.
    assert set(shapes["params"]) == set(model.groups) == set(entry.groups)
    assert set(shapes.get("batch_stats", {})) <= set(model.groups)
    kernel = shapes["params"][model.groups[-1]]["kernel"]
    assert kernel.shape == (entry.penultimate, model.num_classes)


@pytest.mark.parametrize("name", WITHOUT_PROJECTIONS)
def test_shortcuts_without_parameters(name):
    shapes = _shapes(create_model(name, num_classes=10, shortcut="pad"))
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"])) == WITHOUT_PROJECTIONS[name]


@pytest.mark.parametrize(("shortcut", "channels"), [("pad", [0, 1, 2, 0]), ("pad_end", [1, 2, 0, 0])])
def test_a_padded_shortcut_takes_every_second_pixel_and_adds_zeros(shortcut, channels):
    x = jnp.broadcast_to(jnp.array([1.0, 2.0]), (1, 3, 3, 2)).at[:, 1].set(9.0)
    found = padded_shortcut(x, 4, 2, shortcut)
    np.testing.assert_array_equal(found, np.broadcast_to(np.array(channels, np.float32), (1, 2, 2, 4)))


def test_a_vgg_without_dense_layers_ends_in_an_average():
    model = create_model("vgg11", widths=(2, 3, 4, 5, 6), num_classes=3, global_pool=True)
    shapes = _shapes(model)
    assert model.groups == ("conv1", "conv2", "conv3", "conv4", "conv5", "fc8")
    assert shapes["params"]["fc8"]["kernel"].shape == (6, 3)
    variables, x = random_variables(model), jnp.ones((1, 64, 64, 3))
    below = model.apply(variables, x, 0, 4)
    assert below.shape == (1, 4, 4, 5) and model.apply(variables, below, 4, 5).shape == (1, 6)


def test_groups_have_the_documented_names():
    assert MODELS["resnet152"].groups == ("stem", "layer1", "layer2", "layer3", "layer4", "fc")
    assert MODELS["vgg16"].groups == ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    assert MODELS["alexnet"].groups == MODELS["vgg16"].groups
    assert MODELS["resnet20"].groups == ("stem", "layer1", "layer2", "layer3", "fc")


@pytest.mark.parametrize("none", [None, 0])
@pytest.mark.parametrize("name", ["resnet20", "vgg11", "alexnet"])
def test_without_classes_there_is_no_classification_layer(name, none):
    model = create_model(name, num_classes=none)
    assert model.groups == MODELS[name].groups[:-1]
    assert set(_shapes(model)["params"]) == set(model.groups)
    assert model == create_model(name, num_classes=None)


def test_equal_arguments_make_equal_modules():
    a, b = create_model("resnet50", dtype="bfloat16"), create_model("resnet50", dtype=jnp.bfloat16)
    assert a == b and hash(a) == hash(b)
    assert a != create_model("resnet50") and create_model("resnet50", v1_stride=True) != create_model("resnet50")


def test_the_error_of_an_unknown_network_lists_the_names():
    with pytest.raises(ValueError, match=r"no network 'ResNet-50'.*Did you mean resnet50.*choices are resnet18, ") as e:
        create_model("ResNet-50")
    assert all(name in str(e.value) for name in MODELS)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("resnet20", {"widths": "abc"}),
        ("resnet20", {"widths": (16, 32, "64")}),
        ("resnet20", {"widths": 16}),
        ("resnet20", {"epsilon": "1e-5"}),
        ("resnet20", {"epsilon": float("nan")}),
        ("resnet20", {"v1_stride": 1}),
        ("resnet20", {"block": 3}),
        ("vgg11", {"hidden": 4096.0}),
        ("vgg11", {"convs": (True,) * 5}),
        ("resnet20", {"widths": (16, 0, 64)}),
        ("resnet20", {"widths": (16, 32, -1)}),
        ("resnet20", {"widths": (16, 10**9, 64)}),
        ("resnet20", {"epsilon": 1e30}),
        ("vgg11", {"hidden": 0}),
    ],
)
def test_a_setting_of_a_wrong_type_or_range_is_named(name, setting):
    with pytest.raises(ValueError, match=f"{name}: its setting {next(iter(setting))} must be like "):
        create_model(name, **setting)
    assert create_model("resnet20", epsilon=1).epsilon == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (16, 32)}, "stage_sizes and widths must have as many entries as each other, not 3 and 2"),
        ({"widths": (), "stage_sizes": ()}, "not 0 and 0"),
        ({"num_classes": -1}, "num_classes must be between 1 and 1048576, got -1"),
        ({"num_classes": 10**9}, "num_classes must be between 1 and 1048576, got 1000000000"),
        ({"block": "x"}, "block must be one of basic, bottleneck, not 'x'"),
        ({"shortcut": "x"}, "shortcut must be one of projection, pad, pad_end, not 'x'"),
    ],
)
def test_invalid_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=f"resnet20: .*{message}"):
        create_model("resnet20", **settings)


def test_the_error_of_an_unknown_setting_lists_the_settings():
    with pytest.raises(ValueError, match="vgg11 has no setting v1_stride.*batch_norm"):
        create_model("vgg11", v1_stride=True)


def _by_module(model):
    return jax.jit(model.init)(jax.random.key(0), _images(model))


@pytest.mark.parametrize("draw", [_by_module, random_variables])
def test_initial_values_of_a_resnet_are_torchvisions(draw):
    model = create_model("resnet20", stage_sizes=(1,), widths=(128,), num_classes=1000)
    variables = draw(model)
    params = variables["params"]
    kernel = params["layer1"]["0"]["conv1"]["kernel"]
    assert kernel.std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02) and abs(kernel.mean()) < 1e-3
    bound = 128**-0.5
    for leaf in (params["fc"]["kernel"], params["fc"]["bias"]):
        assert 0.98 * bound < jnp.abs(leaf).max() <= bound and leaf.std() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert (params["stem"]["bn1"]["scale"] == 1).all() and (params["stem"]["bn1"]["bias"] == 0).all()
    statistics = variables["batch_stats"]["stem"]["bn1"]
    assert (statistics["mean"] == 0).all() and (statistics["var"] == 1).all()


@pytest.mark.parametrize("draw", [_by_module, random_variables])
def test_initial_values_of_a_vgg_are_torchvisions(draw):
    model = create_model("vgg11", convs=(1,), widths=(64,), hidden=128)
    params = draw(model)["params"]
    assert params["conv1"]["conv0"]["kernel"].std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert params["fc6"]["kernel"].std() == pytest.approx(0.01, rel=0.02)
    assert not params["fc8"]["bias"].any() and not params["conv1"]["conv0"]["bias"].any()


@pytest.mark.parametrize("draw", [_by_module, random_variables])
def test_initial_values_of_an_alexnet_are_torchvisions(draw):
    params = draw(create_model("alexnet", widths=(64, 32, 8, 8, 64), hidden=64))["params"]
    layers = {
        3 * 11 * 11: params["conv1"]["conv0"],
        64 * 5 * 5: params["conv2"]["conv0"],
        64 * 36: params["fc6"],
        64: params["fc8"],
    }
    for inputs, layer in layers.items():
        bound = inputs**-0.5
        for leaf in (layer["kernel"], layer["bias"]):
            assert 0.8 * bound < jnp.abs(leaf).max() <= bound and leaf.std() == pytest.approx(bound / 3**0.5, rel=0.25)
        assert layer["kernel"].std() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize("name", ["resnet50", "vgg11_bn", "alexnet", "resnet20"])
def test_random_variables_have_the_shapes_of_the_module(name):
    settings = {"resnet50": {"conv_bias": True}, "vgg11_bn": {"hidden": 16}, "alexnet": {"hidden": 16}}.get(name, {})
    model = create_model(name, num_classes=3, **settings)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), dict(_shapes(model)))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), random_variables(model)) == shapes
