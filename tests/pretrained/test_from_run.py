"""Chain transfers: a run of this program as the source of the next."""

import jax
import numpy as np
import pytest

import flax_augtl
from flax_augtl.pretrained.__main__ import main
from tests import small

pytestmark = pytest.mark.slow


def train(workdir, **changes):
    config = small.digits_config(**{"weights": "embedded:glyphs", "freeze": "all", "steps": 2, **changes})
    return flax_augtl.train(config, workdir, quiet=True)


@pytest.fixture(scope="module")
def images():
    return [np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8) for _ in range(4)]


@pytest.mark.parametrize("preset", ["traditional", "kept_plain"])
def test_the_target_classifier_becomes_the_classification_layer(preset, images, tmp_path):
    run = train(tmp_path / "run", head={"preset": preset})
    source = flax_augtl.load_source("resnet20", tmp_path / "run")
    assert source.class_names == tuple("0123456789") and source.preprocess == run.preprocessing
    logits = source.model.apply(source.variables, source.preprocess(images))
    np.testing.assert_allclose(jax.nn.softmax(logits / run.temperature), run.predict(images), rtol=1e-4, atol=1e-6)


def test_new_layers_are_dropped_and_the_kept_layer_stays(tmp_path):
    run = train(tmp_path / "run", freeze="layer3", head={"preset": "kept"})
    source = flax_augtl.load_source(None, str(tmp_path / "run"))
    assert source.name == "resnet20" and len(source.class_names) == 215
    np.testing.assert_array_equal(
        source.variables["params"]["fc"]["kernel"], run.variables["params"]["source"]["fc"]["kernel"]
    )


def test_the_command_line_describes_a_run(tmp_path, capsys):
    train(tmp_path / "run", head={"preset": "traditional"})
    assert main([str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "a run directory of this program" in said and "10: 0, 1, 2, …" in said and "glyphs_resnet20" in said
    assert main([str(tmp_path / "run"), "--verify"]) == 1
    assert "there is no original to compare it with" in capsys.readouterr().err


def test_a_chain_of_three(tmp_path):
    first = train(tmp_path / "first", head={"preset": "traditional"})
    second = train(
        tmp_path / "second", weights=str(tmp_path / "first"), head={"preset": "kept_deeper", "new_layers": (8,)}
    )
    assert second.variables["params"]["source"]["fc"]["kernel"].shape == (64, 10)
    np.testing.assert_array_equal(
        second.variables["params"]["source"]["fc"]["kernel"], first.variables["params"]["head"]["classifier"]["kernel"]
    )
    assert second.network.groups[-2:] == ("fc", "head")


def test_runs_that_cannot_be_a_source_are_refused(tmp_path):
    train(tmp_path / "run", head={"preset": "traditional_l2"})
    with pytest.raises(ValueError, match="has no classification layer that could be kept"):
        train(tmp_path / "next", weights=str(tmp_path / "run"), head={"preset": "kept"})
    with pytest.raises(ValueError, match="is a run of resnet20, not of resnet32"):
        flax_augtl.load_source("resnet32", tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(ValueError, match="a run that is not finished"):
        flax_augtl.load_source("resnet20", tmp_path / "run")
