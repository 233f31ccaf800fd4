"""Unusable checkpoints are refused with clear messages, and nothing in a file is ever executed."""

import hashlib
import io
import json
import os
import pickle
import re
import sys
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from flax_augtl.models import create_model
from flax_augtl.pretrained import CheckpointError, load_source


def refused(weights, name="resnet20", **settings) -> str:
    """Return the message of the error that loading raises."""
    with pytest.raises(CheckpointError) as error:
        load_source(name, weights, **settings)
    return str(error.value)


@pytest.fixture
def good(tmp_path, state_dict):
    save_file(state_dict, tmp_path / "good.safetensors")
    return tmp_path / "good.safetensors"


def test_all_differences_come_in_one_message(tmp_path, state_dict):
    tensors = dict(state_dict)
    for name in ("conv1.weight", "layer2.1.bn1.running_mean", "fc.bias"):
        del tensors[name]
    tensors |= {f"aux.{i}": np.zeros(3, np.float32) for i in range(12)}
    tensors["layer3.0.conv1.weight"] = np.zeros((64, 32, 1, 1), np.float32)
    tensors["layer1.0.conv1.weight"] = tensors["layer1.0.conv1.weight"].astype(np.int32)
    save_file(tensors, tmp_path / "w.safetensors")
    lines = refused(tmp_path / "w.safetensors").splitlines()
    assert lines[0] == f"{tmp_path / 'w.safetensors'} does not fit resnet20."
    assert lines[1:5] == [
        "missing (3):",
        "  conv1.weight [16, 3, 3, 3]",
        "  layer2.1.bn1.running_mean [32]",
        "  fc.bias [7]",
    ]
    assert lines[5] == "unexpected (12):" and lines[16] == "  … and 2 more" and len(lines) == 21
    assert lines[17:] == [
        "mis-shaped (1):",
        "  layer3.0.conv1.weight [64, 32, 1, 1], expected [64, 32, 3, 3]",
        "not floating-point (1):",
        "  layer1.0.conv1.weight int32",
    ]


def test_the_network_that_it_fits_is_named(good):
    message = refused(good, "resnet32")
    assert message.startswith(f"{good} does not fit resnet32. This file fits resnet20.\nmissing (60):")


def test_a_checkpoint_that_fits_nothing_is_compared_with_the_nearest_network(tmp_path, draw):
    tensors = draw(create_model("resnet44", num_classes=3))
    del tensors["bn1.bias"]
    save_file(tensors, tmp_path / "w.safetensors")
    message = refused(tmp_path / "w.safetensors", None)
    assert "fits no network that is known here. The nearest is resnet44" in message
    assert message.endswith("missing (1):\n  bn1.bias [16]")


def test_a_file_without_tensors(tmp_path):
    save_file({}, tmp_path / "w.safetensors")
    assert "holds no tensors" in refused(tmp_path / "w.safetensors", None)


def test_an_unknown_network_is_refused_before_the_file_is_touched(tmp_path):
    with pytest.raises(ValueError, match="no network 'resnet21'. Did you mean .*resnet20"):
        load_source("resnet21", tmp_path / "absent.safetensors")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite(tmp_path, state_dict, bad):
    tensors = {k: v.copy() for k, v in state_dict.items()}
    tensors["layer1.0.conv1.weight"][0, 0, 0, :2] = bad
    tensors["bn1.running_var"][3] = bad
    save_file(tensors, tmp_path / "w.safetensors")
    assert refused(tmp_path / "w.safetensors").splitlines() == [
        "The checkpoint has weights that are NaN or infinite (2):",
        "  bn1.running_var: 1 of 16 values",
        "  layer1.0.conv1.weight: 2 of 2304 values",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "is a Git-LFS pointer"),
        (b"\n <!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b"<html>", "is a web page"),
        (b"hello, this is text", "is none of the checkpoint formats .* starts with b'hello, this is "),
        (b"PK\x03\x04 and then nothing of use", "the archive is cut short or damaged"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "is cut short or damaged|needs h5py"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_files_that_are_no_checkpoints(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    text = refused(tmp_path / name)
    assert text.startswith(str(tmp_path / name)) and "\n" not in text
    assert re.search(message, text)


@pytest.mark.parametrize("part", [0.999, 0.5, 0.001])
def test_truncated_safetensors(tmp_path, good, part):
    whole = good.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: int(len(whole) * part)])
    assert "the safetensors file is cut short or damaged" in refused(tmp_path / "cut.safetensors")


def test_truncated_npz(tmp_path, state_dict):
    np.savez(tmp_path / "w.npz", **state_dict)
    whole = (tmp_path / "w.npz").read_bytes()
    (tmp_path / "w.npz").write_bytes(whole[:-1000])
    assert "cut short or damaged" in refused(tmp_path / "w.npz")


def test_an_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("holiday.jpg", b"x")
    assert "neither a PyTorch nor a Keras nor an .npz one; it holds holiday.jpg" in refused(tmp_path / "w.zip")


def test_sha256_is_checked_before_the_file_is_read(good, tmp_path):
    right = hashlib.sha256(good.read_bytes()).hexdigest()
    assert load_source("resnet20", good, sha256=right.upper()).terms["sha256"] == right
    assert f"has SHA-256 {right}, not {'0' * 64} as asked" in refused(good, sha256="0" * 64)
    assert "must be 64 hexadecimal digits" in refused(good, sha256="abc")
    (tmp_path / "bad.pth").write_bytes(b"\x80\x02 not a pickle")
    assert "as asked" in refused(tmp_path / "bad.pth", sha256="0" * 64)
    with pytest.raises(ValueError, match="no weights that it could belong to"):
        load_source("resnet20", sha256=right)


def test_a_path_that_does_not_exist(tmp_path):
    assert refused(tmp_path / "absent.pth") == f"There is no checkpoint at {tmp_path / 'absent.pth'}."
    assert refused("some/absent.safetensors") == "There is no checkpoint at some/absent.safetensors."


def test_a_folder_with_no_checkpoint_or_several(tmp_path, good):
    assert load_source("resnet20", tmp_path).model.num_classes == 7
    (tmp_path / "empty").mkdir()
    assert "should hold one checkpoint, but there is none" in refused(tmp_path / "empty")
    (tmp_path / "other.safetensors").write_bytes(good.read_bytes())
    assert "but there is 2: good.safetensors, other.safetensors. Give the file" in refused(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"architecture": "resnetblur50"}', "weights of resnetblur50 by its config.json, which is not the same"),
        ('{"architecture": "resnet20", "model_args": {"aa_layer": "avg"}}', r"changes the network \(aa_layer\)"),
        ('{"architecture": "resnet20", "pretrained_cfg": {"input_size": [1, 28, 28]}}', "only RGB is supported"),
        ('{"architecture": "resnet20", "pretrained_cfg": {"crop_mode": "border"}}', "crop_mode='border': set config"),
        ('{"model_type": "vit"}', "is a vit by its config.json"),
        ('{"model_type": "resnet", "hidden_act": "gelu"}', "asks for hidden_act='gelu'"),
        ('{"model_type": "resnet", "downsample_in_first_stage": true}', "asks for downsample_in_first_stage=True"),
        ("{nonsense", "is not valid JSON"),
    ],
)
def test_a_config_that_asks_for_something_else(tmp_path, state_dict, config, message):
    save_file(state_dict, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=message):
        load_source("resnet20", tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        "[1]",
        "3",
        "null",
        '{"architecture": 3}',
        '{"architecture": "resnet20", "model_args": 3}',
        '{"architecture": "resnet20", "pretrained_cfg": 3}',
        '{"architecture": "resnet20", "input_size": 3}',
        '{"architecture": "resnet20", "input_size": [3, 1000000000, 1000000000]}',
        '{"architecture": "resnet20", "crop_pct": "x"}',
        '{"architecture": "resnet20", "interpolation": []}',
        '{"model_type": "resnet", "id2label": 3}',
        "[" * 100000,
    ],
)
def test_a_config_with_wrong_types_is_damaged(tmp_path, state_dict, config):
    save_file(state_dict, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError):
        load_source("resnet20", tmp_path)


def test_damaged_notes(tmp_path, state_dict):
    save_file(state_dict, tmp_path / "w.safetensors", {"flax_augtl": "{"})
    assert "the notes of this program in it are damaged" in refused(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon": "x"},
        {"widths": [16, "a", 64]},
        {"dtype": "float64"},
        {"no_such": 1},
        {"stage_sizes": 3},
        {"block": ["basic"]},
    ],
)
def test_settings_with_wrong_types_in_notes(tmp_path, state_dict, settings):
    notes = json.dumps({"network": "resnet20", "settings": settings})
    save_file(state_dict, tmp_path / "w.safetensors", {"flax_augtl": notes})
    assert f"{tmp_path / 'w.safetensors'}: " in refused(tmp_path / "w.safetensors")


@pytest.mark.parametrize("weights", ["", "None", "none", " "])
def test_none_as_a_string_names_no_weights(weights):
    with pytest.raises(CheckpointError, match="names no checkpoint. Random weights are --config.weights=None on"):
        load_source("resnet20", weights)


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_numpy_never_unpickles(tmp_path):
    np.savez(tmp_path / "w.npz", **{"conv1.weight": np.array([Evil(tmp_path / "ran")], object)})
    assert "holds Python objects or records (conv1.weight), which are not read: pickled" in refused(tmp_path / "w.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("module", "content"), [("torch", b"\x80\x02}."), ("h5py", b"\x89HDF\r\n\x1a\n")])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, module, content):
    (tmp_path / "w").write_bytes(content)
    monkeypatch.setitem(sys.modules, module, None)  # importing it now fails as if it were not installed
    extra = {"torch": "torch", "h5py": "keras"}[module]
    assert f"pip install 'flax_augtl[{extra}]'" in refused(tmp_path / "w")


class TestPyTorch:
    """Files that PyTorch's loader refuses."""

    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch", reason="needs the extra `torch`")

    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_pickle_with_code_does_not_run_it(self, tmp_path, torch, legacy):
        saved = {"state_dict": {"conv1.weight": torch.zeros(1)}, "evil": Evil(tmp_path / "ran")}
        torch.save(saved, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
        message = refused(tmp_path / "w.pth")
        assert "is a pickle that holds more than tensors (posix.mkdir), and reading it could run code" in message
        assert not (tmp_path / "ran").exists() and "\n" not in message

    def test_a_bare_pickle_does_not_run_code_either(self, tmp_path):
        (tmp_path / "w.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
        assert "reading it could run code" in refused(tmp_path / "w.bin")
        assert not (tmp_path / "ran").exists()

    def test_a_whole_module_is_refused_by_name(self, tmp_path, torch):
        torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
        message = refused(tmp_path / "w.pth")
        assert "torch.nn.modules.linear.Linear" in message and "save `model.state_dict()`" in message

    @pytest.mark.parametrize("legacy", [False, True])
    def test_truncated(self, tmp_path, torch, state_dict, legacy):
        buffer = io.BytesIO()
        tensors = {k: torch.from_numpy(v) for k, v in state_dict.items()}
        torch.save(tensors, buffer, _use_new_zipfile_serialization=not legacy)
        for part in (0.99, 0.5, 0.01):
            (tmp_path / "w.pth").write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * part)])
            assert "cut short" in refused(tmp_path / "w.pth")

    @pytest.mark.parametrize(("saved", "message"), [({"epoch": 3}, "it holds epoch"), ([1, 2], "holds a list")])
    def test_no_state_dict(self, tmp_path, torch, saved, message):
        torch.save(saved, tmp_path / "w.pth")
        assert message in refused(tmp_path / "w.pth")

    def test_nan_in_half_precision(self, tmp_path, torch, state_dict):
        tensors = {k: torch.from_numpy(v).half() for k, v in state_dict.items()}
        tensors["fc.bias"][2] = torch.nan
        torch.save(tensors, tmp_path / "w.pth")
        assert refused(tmp_path / "w.pth").endswith("fc.bias: 1 of 7 values")
