"""Files with several networks: averaged and raw weights, wrappers, other networks, and other tensors."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import flax_augtl
from flax_augtl.config import added_fields
from flax_augtl.config.convert import to_json
from flax_augtl.pretrained import CheckpointError, load_source
from flax_augtl.pretrained.entries import find_entries
from flax_augtl.pretrained.formats.lazy_tensor import Tensor
from tests import small

RAW, AVERAGE = 1.0, 2.0


@pytest.fixture
def write(tmp_path, state_dict):
    """Write a file of networks by their prefixes, with different fc biases, and of more tensors."""

    def write(prefixes, **more):
        tensors = {
            f"{prefix}{name}": np.full_like(value, bias) if name == "fc.bias" else value
            for prefix, bias in prefixes.items()
            for name, value in state_dict.items()
        }
        save_file({**tensors, **more}, tmp_path / "w.safetensors")
        return tmp_path / "w.safetensors"

    return write


def bias(source):
    return float(source.variables["params"]["fc"]["bias"][0])


@pytest.mark.parametrize(
    ("raw", "average"),
    [
        ("state_dict.", "state_dict_ema."),
        ("model.", "model_ema.module."),
        ("state_dict.module.", "ema.module."),
        ("", "ema."),
        ("state_dict.net.", "state_dict.net_ema.module."),
        ("student.backbone.", "teacher.backbone."),
        ("net.", "modelEMA."),
        ("net.", "emaModel."),
        ("net.", "EMAModel."),
        ("net.", "SWAModel.module."),
        ("model.", "swa_model."),
        ("model.", "averaged_model."),
        ("model.", "model-ema."),
        ("model.", "ema_0_999."),
    ],
)
def test_the_average_is_used_with_a_note(write, raw, average):
    path = write({raw: RAW, average: AVERAGE})
    source = load_source("resnet20", path)
    name, other = average.strip("."), raw.strip(".") or "."
    assert bias(source) == AVERAGE and source.terms["entry"] == name
    assert source.notes == (
        f"{path}: the averaged weights ({name}) are used, since published accuracies are those of the "
        f"average. config.weights_entry chooses others: {other}.",
    )
    for entry in (other, "raw"):
        source = load_source(None, path, entry=entry)
        assert bias(source) == RAW and source.notes == ()
    assert bias(load_source(None, path, entry=name)) == AVERAGE


def test_a_counter_of_torchvisions_marks_an_average(write):
    path = write({"model.": RAW, "other.module.": AVERAGE}, **{"other.n_averaged": np.array(7)})
    assert bias(load_source(None, path)) == AVERAGE
    # Alone in its file it is a network like any other, also around DataParallel or torch.compile.
    for prefix in ("module.", "module.module.", "module._orig_mod."):
        source = load_source(None, write({prefix: AVERAGE}, n_averaged=np.array(7)))
        assert bias(source) == AVERAGE and source.notes == ()
    path = write({"model.": RAW, "other.module.module.": AVERAGE}, **{"other.n_averaged": np.array(7)})
    assert bias(load_source(None, path)) == AVERAGE


def test_an_average_that_does_not_fit_is_not_used_and_noted(write, state_dict):
    statistics = {f"model_ema.{name}": value for name, value in state_dict.items() if "running" not in name}
    path = write({"model.": RAW}, **statistics)
    source = load_source(None, path)
    assert bias(source) == RAW
    assert source.notes == (f"{path}: the averaged weights in model_ema fit no network here and are not used.",)


def test_the_beginning_of_a_name_is_enough(write):
    path = write({"state_dict.module.": RAW, "state_dict_ema.module.": AVERAGE})
    for entry, expected in (("state_dict", RAW), ("state_dict.module", RAW), ("state_dict_ema", AVERAGE)):
        assert bias(load_source(None, path, entry=entry)) == expected


@pytest.mark.parametrize("entry", ["nothing", "state", "."])
def test_the_error_of_a_missing_entry_lists_the_entries(write, entry):
    path = write({"state_dict.": RAW, "model_ema.": AVERAGE})
    with pytest.raises(CheckpointError) as error:
        load_source(None, path, entry=entry)
    assert str(error.value) == (
        f"config.weights_entry={entry!r}: {path} has no such entry. Set config.weights_entry to one "
        "of: model_ema, state_dict."
    )


def test_an_ambiguous_choice_of_networks_is_refused(write):
    path = write({"online.": 1.0, "target.": 2.0})
    with pytest.raises(CheckpointError) as error:
        load_source(None, path)
    assert str(error.value) == (
        f"{path} holds several networks that fit. Set config.weights_entry to one of: online, target."
    )
    assert bias(load_source(None, path, entry="target")) == 2.0
    # The same network twice is one.
    assert bias(load_source(None, write({"model.": 3.0, "attacker.model.": 3.0}))) == 3.0


def test_the_usual_holder_comes_first_and_the_others_are_named(write):
    path = write({"best.": 1.0, "state_dict.": 2.0})
    source = load_source(None, path)
    assert bias(source) == 2.0
    assert source.notes == (f"{path}: the weights state_dict are used. config.weights_entry chooses others: best.",)


def test_a_network_of_another_architecture_in_the_file_is_ignored(write, draw):
    from flax_augtl.models import create_model

    other = {f"teacher.{name}": value for name, value in draw(create_model("resnet32", num_classes=7)).items()}
    path = write({"student.": 4.0}, **other)
    assert bias(load_source("resnet20", path)) == 4.0
    assert load_source("resnet32", path).name == "resnet32"


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "model.backbone.", "state_dict.model.net.", "encoder."])
def test_a_prefix_that_fits_is_stripped(write, prefix):
    source = load_source(None, write({prefix: 5.0}))
    assert source.name == "resnet20" and bias(source) == 5.0 and source.notes == ()


def test_tensors_beside_a_prefix_are_named(write):
    path = write(
        {"state_dict.net.": 5.0},
        **{"state_dict.criterion.weight": np.ones(7, np.float32), "optimizer.state.0.exp_avg": np.ones(3, np.float32)},
    )
    source = load_source(None, path)
    assert bias(source) == 5.0
    assert source.notes == (
        f"{path}: the network is what is below state_dict.net; 1 tensor beside it is left out: "
        "state_dict.criterion.weight.",
    )


def test_a_segmentation_network_gets_a_note_about_dilation(write):
    path = write({"backbone.": 5.0}, **{"classifier.4.weight": np.ones((2, 8, 1, 1), np.float32)})
    assert load_source(None, path).notes[1] == (
        f"{path}: this is a network for segmentation. Such networks often dilate the convolutions of their last stages, "
        "which is not done here."
    )


@pytest.mark.parametrize("beside", ["encoder_k.", None])
def test_a_moco_checkpoint(write, beside):
    prefixes = {"module.encoder_q.": 1.0} | ({f"module.{beside}": 2.0} if beside else {})
    path = write(prefixes, **{"module.queue": np.ones((8, 4), np.float32)})
    source = load_source(None, path)
    # Its last layer is a projection, even if its name is fc.
    assert source.terms["entry"] == "module.encoder_q" and source.class_names == () and "fc" not in source.groups


def test_numbers_beside_the_state_dict_are_no_tensors_of_a_network():
    tensors = {
        "state_dict.layer1.0.conv1.weight": np.zeros((1, 1, 3, 3)),
        "state_dict.epoch": np.array(3),
        "best_acc1": np.array(0.5),
    }
    (entry,) = find_entries({name: Tensor.of(value) for name, value in tensors.items()})
    assert (entry.name, list(entry.tensors)) == ("state_dict", ["layer1.0.conv1.weight"])


def test_a_run_directory_has_no_entries(tmp_path):
    (tmp_path / "source.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match="config.weights_entry='model' has no meaning for .*: it is a run directory"
    ):
        load_source(None, tmp_path, entry="model")


@pytest.mark.slow
def test_training_notes_the_weights_and_keeps_their_name(write, tmp_path, capsys):
    path = write({"state_dict.": RAW, "state_dict_ema.": AVERAGE})
    common = {"weights": str(path), "freeze": "all", "steps": 1, "head": {"preset": "kept"}}
    run = flax_augtl.train(small.digits_config(**common), tmp_path / "average")
    assert "the averaged weights (state_dict_ema) are used" in capsys.readouterr().err
    assert run.variables["params"]["source"]["fc"]["bias"][0] == AVERAGE
    assert json.loads((tmp_path / "average" / "source.json").read_text())["terms"]["entry"] == "state_dict_ema"
    run = flax_augtl.train(small.digits_config(**common, weights_entry="state_dict"), tmp_path / "raw", quiet=True)
    assert run.variables["params"]["source"]["fc"]["bias"][0] == RAW


def test_a_run_of_an_earlier_version_keeps_to_the_raw_weights():
    old = to_json(small.typed_config())
    del old["weights_entry"]
    assert added_fields.continued(small.typed_config(), old).weights_entry == "raw"


class TestPyTorch:
    """Files as PyTorch's training scripts write them."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch", reason="needs the extra `torch`")

    @pytest.fixture
    def tensors(self, torch, state_dict):
        return {name: torch.from_numpy(value) for name, value in state_dict.items()}

    def test_a_tensor_beside_the_state_dict(self, tmp_path, torch, tensors, state_dict):
        # As pytorch/examples/imagenet writes it.
        torch.save(
            {
                "epoch": 90,
                "arch": "resnet20",
                "state_dict": {f"module.{k}": v for k, v in tensors.items()},
                "best_acc1": torch.tensor(76.1),
                "optimizer": {
                    "state": {0: {"momentum_buffer": torch.ones(3)}},
                    "param_groups": [{"lr": 0.1, "params": [0]}],
                },
                "scheduler": {"base_lrs": [0.1]},
            },
            tmp_path / "w.pth",
        )
        source = load_source("resnet20", tmp_path / "w.pth")
        np.testing.assert_array_equal(source.variables["params"]["fc"]["bias"], state_dict["fc.bias"])
        assert source.notes == ()

    def test_numpy_numbers_beside_the_state_dict(self, tmp_path, torch, tensors, state_dict):
        saved = {"state_dict": tensors, "best_acc1": np.float64(76.1), "epoch": np.int64(3), "best": np.bool_(True)}
        torch.save({**saved, "loss": np.float32(1.5)}, tmp_path / "w.pth")
        source = load_source("resnet20", tmp_path / "w.pth")
        np.testing.assert_array_equal(source.variables["params"]["fc"]["bias"], state_dict["fc.bias"])

    def test_an_average_of_torchvisions(self, tmp_path, torch, tensors):
        average = {f"module.{k}": v + 1 if k == "fc.bias" else v for k, v in tensors.items()}
        torch.save({"model": tensors, "model_ema": {"n_averaged": torch.tensor(5), **average}}, tmp_path / "w.pth")
        source = load_source("resnet20", tmp_path / "w.pth")
        np.testing.assert_array_equal(source.variables["params"]["fc"]["bias"], tensors["fc.bias"].numpy() + 1)
        assert "model_ema.module" in source.notes[0]

    def test_a_container_that_contains_itself_ends(self, tmp_path, torch, tensors):
        saved = {"model": tensors}
        saved["again"] = [saved, saved]
        torch.save(saved, tmp_path / "w.pth")
        assert load_source("resnet20", tmp_path / "w.pth").name == "resnet20"

    def test_unsupported_tensors_elsewhere_in_the_file_do_no_harm(self, tmp_path, torch, tensors):
        torch.save({"model": tensors, "statistics": {"a.b": torch.ones(3, device="meta")}}, tmp_path / "w.pth")
        assert load_source("resnet20", tmp_path / "w.pth").name == "resnet20"
        torch.save({**tensors, "fc.bias": torch.ones(7, device="meta")}, tmp_path / "w.pth")
        with pytest.raises(
            CheckpointError, match="has sparse, quantised or absent tensors, which are not read: fc.bias"
        ):
            load_source("resnet20", tmp_path / "w.pth")
