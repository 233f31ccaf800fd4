"""What --mode=export writes, read back by this program and by torchvision."""

import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import flax_augtl
from flax_augtl.data import dataset_from_arrays
from flax_augtl.export import export
from flax_augtl.models.initializers import random_variables
from flax_augtl.pretrained.save import write_safetensors
from tests import small


@pytest.fixture(scope="module")
def images():
    return [np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8) for _ in range(4)]


@pytest.fixture(scope="module")
def traditional(tmp_path_factory):
    """A run of ResNet-18 with the traditional head, of which only the head was trained."""
    folder = tmp_path_factory.mktemp("export")
    source = flax_augtl.load_source("resnet18")
    write_safetensors(folder / "source.safetensors", "resnet18", random_variables(source.model, 1), source.preprocess)
    config = small.digits_config(
        network="resnet18",
        weights=str(folder / "source.safetensors"),
        freeze="all",
        steps=2,
        image_size=32,
        learning_rate=0.1,
    )
    rng = np.random.default_rng(0)
    labels = [str(digit) for digit in range(10)]
    images = rng.integers(0, 256, (20, 32, 32, 3), np.uint8)
    dataset = dataset_from_arrays(images, 2 * labels, test=(images[::2], labels), data={"validation": 0})
    return flax_augtl.train(config, folder / "run", dataset=dataset, quiet=True)


@pytest.mark.slow
def test_a_traditional_run_is_the_source_of_another_unchanged(traditional, images):
    weights, sheet = export(traditional)
    assert sheet.name == "export.json"
    source = flax_augtl.load_source("resnet18", weights)
    assert source.class_names == tuple("0123456789") and source.preprocess == traditional.preprocessing
    logits = np.asarray(source.model.apply(source.variables, source.preprocess(images)))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, traditional.predict(images), rtol=1e-4, atol=1e-6)


def test_an_unknown_format_is_an_error(traditional):
    with pytest.raises(ValueError, match="--format=tflite is unknown. Formats: safetensors, onnx, stablehlo"):
        export(traditional, "tflite")


def test_what_is_in_the_way_of_a_file_is_a_sentence_and_a_link_is_not_followed(traditional, tmp_path):
    weights = pathlib.Path(export(traditional)[0])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    content = load_file(weights)
    weights.unlink()
    weights.symlink_to(elsewhere)
    export(traditional)
    assert elsewhere.read_text() == "mine" and not weights.is_symlink()
    # Not byte for byte: safetensors writes the entries of its metadata in any order.
    jax.tree.map(np.testing.assert_array_equal, load_file(weights), content)
    weights.unlink()
    weights.mkdir()
    with pytest.raises(ValueError, match=f"{weights} cannot be written: .*is a directory"):
        export(traditional)
    weights.rmdir()


@pytest.mark.parity
def test_torchvision_loads_a_traditional_run_and_gives_the_same_logits(torch, traditional, images):
    from torchvision.models import resnet18

    weights, _ = export(traditional)
    model = resnet18(num_classes=10)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in load_file(weights).items()})
    with torch.no_grad():
        x = np.asarray(traditional.preprocessing(images)).transpose(0, 3, 1, 2).copy()
        expected = torch.softmax(model.eval()(torch.from_numpy(x)), 1).numpy()
    np.testing.assert_allclose(traditional.predict(images), expected, rtol=1e-4, atol=1e-6)
