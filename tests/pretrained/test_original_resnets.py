"""The original paper's ResNets for CIFAR, with shortcuts without parameters, against a PyTorch network."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flax_augtl
from flax_augtl.export import export
from flax_augtl.models import create_model
from flax_augtl.pretrained import load_source, to_state_dict
from flax_augtl.pretrained.parity.block_outputs import block_activations
from flax_augtl.trust.calibration import calibrated
from tests import small

PADS = (
    "its shortcuts have no parameters: they take every second pixel and add zeros, half of them before and half behind "
    "the channels, as the usual PyTorch code does."
)


@pytest.fixture
def original(tmp_path, draw):
    """Write a resnet20 in the names of akamaster/pytorch_resnet_cifar10."""
    tensors = draw(create_model("resnet20", num_classes=10, shortcut="pad"))
    path = tmp_path / "w.safetensors"
    save_file({f"state_dict.module.{name.replace('fc.', 'linear.')}": value for name, value in tensors.items()}, path)
    return path, tensors


def test_the_loader_finds_the_shortcut(original):
    path, tensors = original
    source = load_source(None, path)
    assert source.name == "resnet20" and source.model.shortcut == "pad" and source.model.num_classes == 10
    assert source.notes == (f"{path}: {PADS}",)
    assert "downsample_conv" not in source.variables["params"]["layer2"]["0"]
    back = to_state_dict("resnet20", source.variables)
    assert list(back) == list(tensors)
    jax.tree.map(np.testing.assert_array_equal, back, tensors)


def test_a_description_beside_the_file_wins(original):
    path, _ = original
    path.with_suffix(".json").write_text(
        '{"network": "resnet20", "preprocessing": {"image_size": 32}, "settings": {"shortcut": "pad_end"}}'
    )
    source = load_source(None, path)
    assert source.model.shortcut == "pad_end" and source.notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["layer2", "layer2.0"])
def test_runs_and_exports_with_padded_shortcuts_load_again(original, tmp_path, freeze):
    images = [np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8) for _ in range(3)]
    config = small.digits_config(weights=str(original[0]), freeze=freeze, steps=2)
    run = flax_augtl.train(config, tmp_path / "run", quiet=True)
    expected = run.predict(images)
    loaded = flax_augtl.load_run(tmp_path / "run")
    assert loaded.network == run.network and loaded.network.source.shortcut == "pad"
    np.testing.assert_array_equal(loaded.predict(images), expected)
    weights, _ = export(loaded)
    assert not any("downsample" in name for name in load_file(weights))
    for path in (weights, tmp_path / "run"):
        source = load_source(None, path)
        assert source.model.shortcut == "pad"
        logits = source.model.apply(source.variables, source.preprocess(images))
        found = calibrated(np.asarray(jax.nn.softmax(logits)), run.temperature)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_kept_layer_is_its_classifier(original, tmp_path):
    config = small.digits_config(weights=str(original[0]), head={"preset": "kept"}, freeze="all", steps=1)
    run = flax_augtl.train(config, tmp_path / "run", quiet=True)
    np.testing.assert_array_equal(run.variables["params"]["source"]["fc"]["bias"], original[1]["fc.bias"])


def _pytorch(torch, blocks):
    """The network of the most used PyTorch code, written from the paper."""
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.pads = inputs != outputs

        def forward(self, x):
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            if self.pads:
                quarter = y.shape[1] // 4
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            return functional.relu(x + y)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            for i, (inputs, outputs) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
                first = Block(inputs, outputs, 1 if i == 1 else 2)
                rest = (Block(outputs, outputs, 1) for _ in range(blocks - 1))
                setattr(self, f"layer{i}", nn.Sequential(first, *rest))
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            x = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x))))))
            return self.linear(x.mean((2, 3)))

    return Network()


@pytest.mark.parity
@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet56", 9), ("resnet110", 18)])
def test_blocks_and_logits_equal_pytorchs(tmp_path, draw, name, blocks):
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    network = _pytorch(torch, blocks).eval()
    tensors = draw(create_model(name, num_classes=10, shortcut="pad"))
    state = {key.replace("fc.", "linear."): torch.from_numpy(value) for key, value in tensors.items()}
    assert not network.load_state_dict(state, strict=False).unexpected_keys
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}, "best_prec1": torch.tensor(92.6)},
        tmp_path / "w.th",
    )
    source = load_source(None, tmp_path / "w.th")
    assert source.name == name
    kept = {}
    for i in (1, 2, 3):
        for j, block in enumerate(getattr(network, f"layer{i}")):

            def keep(module, inputs, output, at=f"layer{i}/{j}"):
                kept[at] = output.permute(0, 2, 3, 1).numpy()

            block.register_forward_hook(keep)
    x = np.random.default_rng(0).standard_normal((2, 33, 32, 3)).astype(np.float32)
    with torch.inference_mode():
        kept["logits"] = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    ours = block_activations(source.model, source.variables, x)
    assert set(kept) == set(ours) - {"stem"}
    for at, theirs in kept.items():
        np.testing.assert_allclose(ours[at], theirs, rtol=0, atol=1e-4 * np.abs(theirs).max(), err_msg=at)
