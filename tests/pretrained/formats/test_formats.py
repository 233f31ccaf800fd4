"""Every file format and every library's names give the same variables; the content decides, not the file's name."""

import argparse
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from flax_augtl.models import create_model
from flax_augtl.pretrained import load_source
from flax_augtl.pretrained.convert import check, to_variables
from flax_augtl.pretrained.formats.lazy_tensor import Tensor
from flax_augtl.pretrained.key_names import to_torchvision


def variables_equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.fixture
def expected(tmp_path, state_dict):
    save_file(state_dict, tmp_path / "expected.safetensors")
    return load_source("resnet20", tmp_path / "expected.safetensors").variables


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.h5", "w"])
def test_safetensors_under_any_name(tmp_path, state_dict, expected, name):
    save_file(state_dict, tmp_path / name)
    assert variables_equal(load_source("resnet20", tmp_path / name).variables, expected)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, state_dict, expected, save):
    save(tmp_path / "w.npz", **state_dict)
    (tmp_path / "w.npz").rename(tmp_path / "w.bin")
    assert variables_equal(load_source("resnet20", tmp_path / "w.bin").variables, expected)


def test_fortran_order_in_npz(tmp_path, state_dict, expected):
    np.savez(tmp_path / "w.npz", **{k: np.asfortranarray(v) for k, v in state_dict.items()})
    assert variables_equal(load_source("resnet20", tmp_path / "w.npz").variables, expected)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_prefixes_and_counters_are_dropped(tmp_path, state_dict, expected, prefix):
    wrapped = {prefix + k: v for k, v in state_dict.items()}
    wrapped[prefix + "bn1.num_batches_tracked"] = np.array(5)
    save_file(wrapped, tmp_path / "w.safetensors")
    assert variables_equal(load_source("resnet20", tmp_path / "w.safetensors").variables, expected)


def test_a_folder_with_one_checkpoint(tmp_path, state_dict):
    (tmp_path / "net").mkdir()
    save_file(state_dict, tmp_path / "net" / "weights.safetensors")
    assert load_source("resnet20", tmp_path / "net").model.num_classes == 7


def transformers_names(tensors):
    """Rename torchvision's ResNet to transformers' names, written independently of the reader."""
    renamed = {}
    for name, value in tensors.items():
        parts = name.split(".")
        if parts[0] == "fc":
            new = f"classifier.1.{parts[1]}"
        elif parts[0] in ("conv1", "bn1"):
            kind = "convolution" if parts[0] == "conv1" else "normalization"
            new = f"resnet.embedder.embedder.{kind}.{parts[1]}"
        else:
            block = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
            if parts[2] == "downsample":
                new = f"{block}.shortcut.{['convolution', 'normalization'][int(parts[3])]}.{parts[4]}"
            else:
                kind = "convolution" if parts[2].startswith("conv") else "normalization"
                new = f"{block}.layer.{int(parts[2][-1]) - 1}.{kind}.{parts[3]}"
        renamed[new] = value
    return renamed


CONFIG = {"model_type": "resnet", "id2label": {"1": "hen", "0": "ant", "10": "z"}, "downsample_in_bottleneck": False}
PROCESSOR = {"crop_pct": 0.875, "resample": 3, "size": {"shortest_edge": 224}, "image_mean": [0.1, 0.2, 0.3]}


def test_transformers_names_and_config(tmp_path, draw):
    settings = {"stage_sizes": (2, 1, 1, 1), "widths": (8, 8, 8, 8), "num_classes": 3}
    for name in ("resnet18", "resnet50"):
        model = create_model(name, **settings)
        tensors = draw(model)
        renamed = {k: Tensor.of(v) for k, v in transformers_names(tensors).items()}
        found, back = to_torchvision(renamed)
        assert found == "transformers" and list(back) == list(tensors)
        assert not check(back, model.slots())


def test_a_transformers_folder(tmp_path, draw):
    tensors = transformers_names(draw(create_model("resnet18", num_classes=3)))
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# ResNet\n")
    source = load_source(None, tmp_path)
    assert source.name == "resnet18" and source.class_names == ("ant", "hen", "z")
    p = source.preprocess
    assert (p.image_size, p.resize_size, p.interpolation, p.mean) == (224, 256, "bicubic", (0.1, 0.2, 0.3))
    assert source.terms["licence"] == "apache-2.0"


def test_timms_vgg_names_and_shapes(draw):
    model = create_model("vgg11", widths=(4, 4, 4, 4, 6), hidden=8, num_classes=3)
    tensors = draw(model)
    timm = {}
    for name, value in tensors.items():
        for theirs, ours in (("pre_logits.fc1", "classifier.0"), ("pre_logits.fc2", "classifier.3")):
            if name == f"{ours}.weight":
                value = value.reshape(8, -1, 7, 7) if theirs.endswith("1") else value[:, :, None, None]
            name = name.replace(ours, theirs)
        timm[name.replace("classifier.6", "head.fc")] = Tensor.of(value)
    found, back = to_torchvision(timm)
    assert found == "timm" and not check(back, model.slots())
    plain = {name: Tensor.of(value) for name, value in tensors.items()}
    assert variables_equal(to_variables(back, model.slots()), to_variables(plain, model.slots()))


TIMM = {
    "architecture": "resnet20",
    "num_classes": 7,
    "label_names": list("abcdefg"),
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 160, 160],
        "test_input_size": [3, 288, 288],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.1, 0.2, 0.3],
        "license": "cc-by-nc-4.0",
        "origin_url": "https://example.org/weights",
    },
}


@pytest.mark.parametrize("nested", [True, False])
def test_timms_config_gives_preprocessing_names_and_terms(tmp_path, state_dict, nested):
    config = TIMM if nested else {**{k: v for k, v in TIMM.items() if k != "pretrained_cfg"}, **TIMM["pretrained_cfg"]}
    save_file(state_dict, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        source = load_source(None, weights)
        p = source.preprocess
        assert (p.image_size, p.resize_size, p.interpolation) == (160, 168, "bicubic")
        assert p.mean == (0.5, 0.4, 0.3) and p.std == (0.1, 0.2, 0.3)
        assert source.class_names == tuple("abcdefg")
        assert source.terms["licence"] == "cc-by-nc-4.0" and source.terms["origin_url"] == "https://example.org/weights"


@pytest.mark.parametrize("count", [6, 8])
def test_names_that_do_not_match_the_classifier_are_not_used(tmp_path, state_dict, count):
    save_file(state_dict, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**TIMM, "label_names": list("abcdefgh")[:count]}))
    assert load_source(None, tmp_path).class_names == tuple(f"class {i}" for i in range(7))


class TestPyTorch:
    """Files that PyTorch writes."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch", reason="needs the extra `torch`")

    @pytest.fixture
    def tensors(self, torch, state_dict):
        return {k: torch.from_numpy(v) for k, v in state_dict.items()}

    @pytest.mark.parametrize("legacy", [False, True])
    def test_zip_and_legacy_files(self, tmp_path, torch, tensors, expected, legacy):
        torch.save(tensors, tmp_path / "w.safetensors", _use_new_zipfile_serialization=not legacy)
        assert variables_equal(load_source("resnet20", tmp_path / "w.safetensors").variables, expected)

    @pytest.mark.parametrize("holder", ["state_dict", "model", "module"])
    def test_nested_and_prefixed(self, tmp_path, torch, tensors, expected, holder):
        wrapped = {f"module.{k}": v for k, v in tensors.items()}
        wrapped["module.bn1.num_batches_tracked"] = torch.tensor(3)
        saved = {"epoch": 3, "args": argparse.Namespace(lr=0.1), holder: wrapped, "optimizer": {"state": {}}}
        torch.save(saved, tmp_path / "w.pth")
        assert variables_equal(load_source("resnet20", tmp_path / "w.pth").variables, expected)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision(self, tmp_path, torch, tensors, dtype):
        half = {k: v.to(getattr(torch, dtype)) for k, v in tensors.items()}
        torch.save(half, tmp_path / "w.pt")
        kernel = load_source("resnet20", tmp_path / "w.pt").variables["params"]["fc"]["kernel"]
        np.testing.assert_array_equal(kernel, half["fc.weight"].float().numpy().T)

    def test_tensors_that_are_not_contiguous(self, tmp_path, torch, tensors, expected):
        last = {k: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in tensors.items()}
        torch.save({k: torch.nn.Parameter(v) for k, v in last.items()}, tmp_path / "w.bin")
        assert variables_equal(load_source("resnet20", tmp_path / "w.bin").variables, expected)
