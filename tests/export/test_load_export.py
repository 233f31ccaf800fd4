"""What `--format=safetensors` wrote, as a run and as the source of another, with every head."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import flax_augtl
from flax_augtl.config.heads import NORMS, PRESETS
from flax_augtl.export import ExportError, export, load_export
from flax_augtl.models import create_model
from flax_augtl.models.augmented import AugmentedNetwork, Head
from tests import small


def with_head(run, settings, **variant):
    """Return a run that has another head, and random weights."""
    source = create_model("resnet20", num_classes=7 if settings.keep_classifier else None, **variant)
    network = AugmentedNetwork(source, Head(settings, 3))
    path = run.workdir / "source.json"
    described = json.loads(path.read_text()) | {"num_classes": 7, "class_names": list("abcdefg")}
    path.write_text(json.dumps({**described, "settings": variant}))
    return dataclasses.replace(run, network=network, variables=small.variables(network))


def as_trained(settings):
    return dataclasses.replace(settings, fit="gradient", strength=None)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_head_comes_back_bit_for_bit(fresh, preset):
    for number, norm in enumerate(NORMS):
        if norm == "batch" and small.head(preset).closed_form:
            continue  # It is refused.
        run = with_head(fresh, small.head(preset, norm=norm), **({"shortcut": "pad"} if number == 0 else {}))
        weights, _ = export(run)
        for path in (weights, run.workdir):
            again = load_export(path)
            jax.tree.map(np.testing.assert_array_equal, again.variables, dict(run.variables))
        assert again.class_names == run.class_names and again.preprocessing == run.preprocessing
        # A head that is a target classifier alone is a classification layer of torchvision, however it was fitted.
        assert as_trained(again.network.head.settings) == as_trained(run.network.head.settings)


def test_it_predicts_and_is_exported_again(fresh, images):
    weights, sheet = export(fresh)
    again = load_export(weights)
    np.testing.assert_allclose(again.predict(images), fresh.predict(images), rtol=0, atol=1e-6)
    assert again.result["test"] == fresh.result["test"] and again.step == fresh.step
    config = json.loads(sheet.read_text())["config"]
    assert config["data"]["root"] == "photos" and config["head"]["new_layers"] == [16]


def test_as_a_source_the_layers_below_the_head_come_back(fresh):
    weights, _ = export(with_head(fresh, small.head("kept_deeper")))
    source = flax_augtl.load_source(None, weights)
    assert source.class_names == tuple("abcdefg")
    assert "tensors of another head than a classification layer are left out" in " ".join(source.notes)
    weights, _ = export(with_head(fresh, small.head("deeper")))
    assert flax_augtl.load_source(None, weights).model.num_classes is None


@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
def test_weights_of_16_bits_are_half_the_size_and_the_change_is_told(fresh, weights):
    path, sheet = export(fresh)
    size, said = path.stat().length, []
    path, sheet = export(fresh, weights=weights, say=said.append)
    assert path.stat().length < 0.55 * size
    assert (
        said[0].startswith(f"{weights} weights: top-1 ")
        and "of 5 validation images are predicted differently" in said[0]
    )
    found = json.loads(sheet.read_text())
    assert found["weights"] == weights and {"top1", "top1_float32", "changed_predictions"} <= set(found["check"])
    kinds = {name: str(value.dtype) for name, value in load_file(str(path)).items()}
    assert kinds["conv1.weight"] == kinds["head.layer1.kernel"] == weights and kinds["bn1.weight"] == "float32"
    kernel = load_export(path).variables["params"]["source"]["stem"]["conv1"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(
        kernel, fresh.variables["params"]["source"]["stem"]["conv1"]["kernel"], rtol=1e-2, atol=1e-5
    )


def test_a_weight_that_float16_cannot_hold_is_a_sentence(fresh):
    variables = jax.tree.map(np.array, dict(fresh.variables))
    variables["params"]["head"]["classifier"]["kernel"][0, 0] = -7e4
    with pytest.raises(ExportError) as error:
        export(dataclasses.replace(fresh, variables=variables), weights="float16")
    assert str(error.value) == (f"--weights=float16 cannot hold the weights of {fresh.workdir}: a weight of 70000 is too "
                                "large. bfloat16 has the range of float32.")  # fmt: skip


def test_what_is_no_export_is_a_sentence(fresh, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ExportError, match="holds no export.safetensors or model.safetensors with an export.json beside it"
    ):
        load_export(tmp_path / "empty")
    weights, sheet = export(fresh)
    described = json.loads(sheet.read_text())
    sheet.write_text(json.dumps({**described, "settings": {**described["settings"], "stage_sizes": [3, 3, 4]}}))
    with pytest.raises(ValueError, match=r"does not hold the network that export.json describes.\nmissing"):
        load_export(weights)
    del described["config"]
    sheet.write_text(json.dumps(described))
    with pytest.raises(
        ExportError, match="does not describe an export of this version: KeyError.*Export the run again"
    ):
        load_export(weights)
