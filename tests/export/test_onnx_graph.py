"""The ONNX graph of every network and head against the network itself, without a run."""

import jax
import numpy as np
import pytest

from flax_augtl.config.heads import NORMS, PRESETS, HeadSettings
from flax_augtl.export import ExportError, ExportSettings
from flax_augtl.export.forward import forward, stored
from flax_augtl.export.onnx_networks import add_groups
from flax_augtl.models import MODELS, create_model
from flax_augtl.models.augmented import AugmentedNetwork, Head
from flax_augtl.pretrained import Preprocessing
from tests import small

pytest.importorskip("onnx", reason="needs the extra `onnx`")
ort = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")

ALL = ("features", "probabilities", "logits")


def compare(network, size, *, temperature=None, preprocessing=None, **settings):
    """Compare all outputs of the graph with the network's for batches of one and of three images."""
    from flax_augtl.export.onnx_model import onnx_model

    preprocessing = preprocessing or Preprocessing(image_size=size, crop_fraction=1.0)
    settings = ExportSettings("onnx", **{"outputs": ALL, **settings})
    variables = stored(small.variables(network, size), settings.weights)
    content = onnx_model(network, variables, preprocessing, settings, temperature=temperature)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    images = pixels if settings.input == "uint8" else np.asarray(preprocessing.normalise(pixels))
    assert [output.name for output in session.get_outputs()] == list(settings.outputs)
    wanted = jax.jit(forward(network, preprocessing, settings, temperature))(variables, images)
    for count in (1, 3):
        for name, value in zip(settings.outputs, session.run(None, {"images": images[:count]}), strict=True):
            scale = np.abs(wanted[name]).max()
            np.testing.assert_allclose(value, wanted[name][:count], rtol=0, atol=2e-5 * scale, err_msg=name)
    return content


def tiny(preset, name="resnet20", *, norm=None, **variant):
    """A network of a few layers that compiles in no time."""
    narrow = {
        "resnet": {"stage_sizes": (1, 2), "widths": (4, 6)},
        "vgg": {"convs": (1, 1), "widths": (3, 4), "hidden": 5},
        "alexnet": {"widths": (3, 4, 4, 4, 4), "hidden": 5},
    }[MODELS[name].family]
    settings = small.head(preset, **({"norm": norm} if norm else {}))
    source = create_model(name, num_classes=4 if settings.keep_classifier else None, **{**narrow, **variant})
    return AugmentedNetwork(source, Head(settings, 3))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_head(preset):
    compare(tiny(preset), 8)


@pytest.mark.parametrize("preset", ["wider", "kept_deeper2"])
def test_every_norm(preset):
    for norm in NORMS:
        compare(tiny(preset, stage_sizes=(1,), widths=(3,), norm=norm), 4)


@pytest.mark.parametrize(
    ("name", "variant", "size", "preset"),
    [
        ("resnet18", {}, 33, "wider"),
        ("resnet18", {"stem": "cifar"}, 9, "kept"),
        ("resnet50", {"v1_stride": True, "conv_bias": True, "epsilon": 1.001e-5}, 33, "traditional"),
        # Width augmentation reads what the topmost layer group reads: here that is a block.
        ("resnet50", {"by_block": True}, 32, "wider"),
        ("resnet20", {"shortcut": "pad"}, 9, "traditional"),
        ("resnet20", {"shortcut": "pad_end", "by_block": True}, 8, "kept"),
        ("vgg11", {}, 32, "wider"),
        ("vgg11_bn", {}, 28, "kept"),
        ("vgg11", {"global_pool": True}, 20, "wider"),
        ("alexnet", {}, 63, "wider"),
        ("alexnet", {}, 224, "traditional"),
    ],
)
def test_every_setting_of_the_networks(name, variant, size, preset):
    compare(tiny(preset, name, **variant), size)


@pytest.mark.parametrize("name", MODELS)
def test_every_registered_network_is_written_with_all_its_layers(name):
    import onnx

    from flax_augtl.export.onnx_model import onnx_model

    usual = create_model(name)
    narrow = {
        "widths": tuple(range(2, 2 + len(usual.widths))),
        **({} if MODELS[name].family == "resnet" else {"hidden": 5}),
    }
    source = create_model(name, num_classes=4, **narrow)
    shapes, variables = source.slots(), {"params": {"source": {}}, "batch_stats": {"source": {}}}
    for slot in shapes.values():
        shape = {"conv": lambda s: (s[2], s[3], s[1], s[0]), "dense": lambda s: s[::-1]}.get(slot.type, lambda s: s)
        collection, *path = slot.path
        tree = variables[collection]["source"]
        for part in path[:-1]:
            tree = tree.setdefault(part, {})
        tree[path[-1]] = np.ones(shape(slot.shape), np.float32)
    variables["params"]["head"] = {
        "classifier": {"kernel": np.ones((4, 3), np.float32), "bias": np.ones(3, np.float32)}
    }
    network = AugmentedNetwork(source, Head(HeadSettings(norm="none"), 3))
    content = onnx_model(network, variables, Preprocessing(image_size=64), ExportSettings("onnx"))
    operators = [node.op_type for node in onnx.load_from_string(content).graph.node]
    kinds = [slot.type for slot in shapes.values()]
    assert operators.count("Conv") == kinds.count("conv") and operators.count("Gemm") == kinds.count("dense") + 1
    assert operators.count("BatchNormalization") == sum(slot.path[-1] == "var" for slot in shapes.values())


def test_pixels_of_keras_weights_and_normalised_input_and_a_temperature():
    keras = Preprocessing(image_size=8, channel_order="BGR", value_range=255.0, mean=(103.9, 116.8, 123.7),
                          std=(1.0, 2.0, 3.0))  # fmt: skip
    compare(tiny("kept"), 8, preprocessing=keras)
    compare(tiny("kept"), 8, preprocessing=keras, input="float")
    compare(tiny("kept"), 8, temperature=2.5)


@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
def test_matrices_of_16_bits_are_half_as_large_and_vectors_stay(weights):
    import onnx

    network = tiny("traditional", "vgg11_bn")
    model = onnx.load_from_string(compare(network, 28, weights=weights))
    kinds = {tensor.name: onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in model.graph.initializer}
    assert kinds["conv1.conv0.weight"] == kinds["head.classifier.kernel"] == weights
    assert kinds["conv1.bn0.var"] == kinds["head.classifier.bias"] == "float32"


def test_a_weight_beyond_float16_is_an_error():
    with pytest.raises(OverflowError, match="a weight of 70000"):
        stored({"params": {"kernel": np.full((2, 2), 7e4, np.float32)}}, "float16")
    assert stored({"params": {"kernel": np.full((2, 2), 7e4, np.float32)}}, "bfloat16")


def test_a_family_without_a_writer_is_an_error():
    from flax_augtl.export.onnx_graph import Graph, Value

    with pytest.raises(
        ExportError, match="the family int cannot be written as ONNX yet. --format=stablehlo works for all"
    ):
        add_groups(Graph(), 3, {}, Value("x", (3,)), 0, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "tflite"}, "--format=tflite is unknown. Formats: safetensors, onnx, stablehlo."),
        ({"format": "onnx", "outputs": "entropy"},
         "--outputs=entropy is unknown. Choices: probabilities, logits, features, familiarity."),
        ({"format": "onnx", "outputs": "logits,logits"},
         "--outputs=logits,logits must name each output once. Choices: probabilities, logits, features, familiarity."),
        ({"format": "onnx", "outputs": ()},
         "--outputs= must name each output once. Choices: probabilities, logits, features, familiarity."),
        ({"format": "onnx", "input": "jpeg"}, "--input=jpeg is unknown. Choices: uint8, float."),
        ({"weights": "int8"}, "--weights=int8 is unknown. Choices: float32, bfloat16, float16."),
        ({"input": "float"}, "--input has no effect with --format=safetensors, which holds weights and no program. "
                             "Leave it out."),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ExportError) as error:
        ExportSettings(**settings)
    assert str(error.value) == message
