"""Every network against its originals, block by block: torchvision, timm and keras.applications.

Random weights with random batch-norm statistics, in float32, at 224 pixels and at a size that makes VGG's adaptive
pooling work. 161 is odd, so that padding at a stride shows, and below 224, where timm's VGG pools as torchvision's
does (above, timm slides its classifier over the image instead).
"""

import jax
import numpy as np
import pytest

from flax_augtl.models import MODELS, create_model
from flax_augtl.pretrained import Preprocessing, load_source, to_state_dict
from flax_augtl.pretrained.convert import to_variables
from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.formats.lazy_tensor import Tensor
from flax_augtl.pretrained.inspect import inspect_checkpoint
from flax_augtl.pretrained.parity import reference as originals_of
from flax_augtl.pretrained.parity.block_outputs import block_activations, differences
from flax_augtl.pretrained.parity.verify import verify

pytestmark = pytest.mark.parity

PUBLISHED = [name for name, entry in MODELS.items() if entry.image_size == 224]
SIZES = (224, 161)
BLOCK, LOGITS = 1e-3, 1e-4


@pytest.fixture(scope="module")
def keras():
    """keras.applications."""
    return pytest.importorskip("keras", reason="Keras is not installed: pip install keras")


def draw(model, seed=0):
    """Return random tensors in torchvision's names for every slot of a model."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, slot in model.slots().items():
        if slot.type != "vector":
            scale = np.float32((2 / np.prod(slot.shape[1:])) ** 0.5)
            # Repeat a sequence of normal numbers; its length is a prime, so that no two rows are equal.
            stretch = random.standard_normal(1_000_003, np.float32) * scale
            tensors[name] = np.resize(stretch, slot.shape)
        else:
            low, high = (0.5, 1.5) if name.endswith(("running_var", "weight")) else (-0.2, 0.2)
            tensors[name] = random.uniform(low, high, slot.shape).astype(np.float32)
    return tensors


def assert_equal(ours, theirs):
    found = differences(ours, theirs)
    worst = {name: d for name, d in found.items() if not d < (LOGITS if name == "logits" else BLOCK)}
    assert not worst


@pytest.mark.parametrize("name", PUBLISHED)
def test_blocks_and_logits_equal_torchvisions_and_timms(torch, name):
    model = create_model(name)
    slots = model.slots()
    tensors = draw(model)
    variables = to_variables({key: Tensor.of(value) for key, value in tensors.items()}, slots)
    images = [np.random.default_rng(s).standard_normal((1, s, s, 3)).astype(np.float32) for s in SIZES]
    ours = [block_activations(model, variables, x) for x in images]
    del variables
    assert len(ours[0]) == len(model.block_names) >= 8
    for library in ("torchvision", "timm"):
        if (library, name) == ("timm", "alexnet"):
            with pytest.raises(CheckpointError, match="timm has no alexnet"):
                originals_of.torch_network(library, name, model)
            continue
        network = originals_of.torch_network(library, name, model)
        originals_of.load_torch_weights(network, tensors)
        for x, own in zip(images, ours, strict=True):
            assert_equal(own, originals_of.torch_activations(network, model, x))


def test_a_difference_is_found(torch):
    model = create_model("resnet18")
    tensors = draw(model)
    network = originals_of.torch_network("torchvision", "resnet18", model)
    originals_of.load_torch_weights(network, tensors)
    variables = to_variables({key: Tensor.of(value) for key, value in tensors.items()}, model.slots())
    other = model.clone(epsilon=1e-2)
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)
    with pytest.raises(AssertionError):
        assert_equal(block_activations(other, variables, x), originals_of.torch_activations(network, model, x))


@pytest.mark.parametrize(
    ("name", "library"),
    [("resnet18", "torchvision"), ("resnet18", "timm"), ("vgg11_bn", "timm"), ("alexnet", "torchvision")],
)
def test_a_file_that_the_library_saves_is_read_and_verified(torch, tmp_path, name, library):
    model = create_model(name)
    network = originals_of.torch_network(library, name, model)
    originals_of.load_torch_weights(network, draw(model))
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "w.pth")
    found = inspect_checkpoint(None, tmp_path / "w.pth")
    assert found.name == name
    source = load_source(None, tmp_path / "w.pth")
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)
    used, found_differences = verify(found, source, x)
    # timm's ResNet has torchvision's names.
    assert used == ("timm" if (library, name) == ("timm", "vgg11_bn") else "torchvision")
    assert max(found_differences.values()) < LOGITS


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "alexnet"])
def test_the_exported_state_dict_loads_into_torchvision_unchanged(torch, name):
    import torchvision

    source = load_source(name, num_classes=5)
    network = torchvision.models.get_model(name, num_classes=5)
    state = {k: torch.from_numpy(v) for k, v in to_state_dict(name, source.variables).items()}
    network.load_state_dict(state)
    x = np.random.default_rng(0).standard_normal((1, 96, 96, 3)).astype(np.float32)
    with torch.inference_mode():
        theirs = network.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    ours = np.asarray(jax.jit(source.model.apply)(source.variables, x))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(("width", "height"), [(500, 375), (333, 500), (256, 256), (224, 900), (60, 41)])
@pytest.mark.parametrize(
    ("interpolation", "size", "fraction", "resized"),
    [("bilinear", 224, 0.875, 256), ("bicubic", 224, 0.95, 235), ("bilinear", 224, 224 / 232, 232)],
)
def test_the_evaluation_transform_is_torchvisions(torch, width, height, interpolation, size, fraction, resized):
    from PIL import Image
    from torchvision import transforms

    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (9, 9, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    original = transforms.Compose(
        [
            transforms.Resize(resized, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
        ]
    )(image)
    p = Preprocessing(size, fraction, interpolation)
    difference = p.resize_and_crop(image) / 255 - original.numpy().transpose(1, 2, 0)
    assert np.abs(difference).max() < 1 / 255 / 2  # equal: the next possible value is 1/255 away
    normalised = transforms.Normalize(p.mean, p.std)(original).numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(p([np.asarray(image)])[0], normalised, atol=1e-5)


@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_the_real_weights(torch, real_folder, tmp_path, network):
    import runpy

    unpack = runpy.run_path(str(real_folder / "unpack.py"))["unpack"]
    from safetensors.numpy import save_file

    save_file(unpack(real_folder / f"{network}.imagenet.npz"), tmp_path / "w.safetensors")
    found = inspect_checkpoint(None, tmp_path / "w.safetensors")
    source = load_source(None, tmp_path / "w.safetensors")
    from PIL import Image

    image = sorted((real_folder / "hymenoptera" / "val" / "ants").glob("*.jpg"))[0]
    x = np.asarray(source.preprocess([np.asarray(Image.open(image).convert("RGB"))]))
    _, found_differences = verify(found, source, x)
    worst = {n: d for n, d in found_differences.items() if not d < (LOGITS if n == "logits" else BLOCK)}
    assert not worst


@pytest.mark.filterwarnings("ignore")  # of Keras and its backends
@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnet152", "vgg16", "vgg19"])
def test_blocks_and_logits_equal_kerass(keras, tmp_path, name):
    network = originals_of.keras_network(name, 1000)
    random = np.random.default_rng(0)
    values = []
    for variable in network.weights:
        shape = tuple(variable.shape)
        if len(shape) > 1:
            values.append(random.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[:-1])) ** 0.5))
        else:
            positive = "gamma" in variable.path or "variance" in variable.path
            values.append(random.uniform(*((0.5, 1.5) if positive else (-0.2, 0.2)), shape).astype(np.float32))
    network.set_weights(values)
    path = tmp_path / "w.weights.h5"
    network.save_weights(path)
    source = load_source(None, path)
    assert source.name == name and source.preprocess.channel_order == "BGR"
    sizes = SIZES[:1] if name.startswith("vgg") else SIZES  # Keras' VGG with its top takes 224 only
    for size in sizes:
        x = np.random.default_rng(size).standard_normal((1, size, size, 3)).astype(np.float32)
        if size != 224:
            network = getattr(keras.applications, name.replace("resnet", "ResNet"))(
                weights=None, classifier_activation=None, input_shape=(size, size, 3)
            )
            originals_of.load_keras_weights(network, path)
        ours = block_activations(source.model, source.variables, x)
        assert_equal(ours, originals_of.keras_activations(network, source.model, x))
    path.unlink()
