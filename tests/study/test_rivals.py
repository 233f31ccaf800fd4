"""The methods of a study: their names, settings, depths, and how many settings each of them has."""

import dataclasses

import numpy as np
import pytest

from flax_augtl.config.convert import typed
from flax_augtl.config.heads import PRESETS
from flax_augtl.config.methods import METHODS, PLAIN, MethodSettings, at_strength
from flax_augtl.config.schema import Config, MethodConfig
from flax_augtl.config.study_config import StudyConfig
from flax_augtl.errors import UserError
from flax_augtl.study.grid import make_grid
from flax_augtl.study.grid_search import at_best_strength
from flax_augtl.study.report.comparison import methods_section
from flax_augtl.study.report.tables import by_method
from flax_augtl.study.rivals import finer_rates, with_methods
from flax_augtl.study.study import study
from flax_augtl.training.methods import places_of
from tests import small

GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4", "fc")


def grid(config=None, **fields):
    asked = StudyConfig(**{"preset": "", "heads": ("traditional",), "depths": ("none", "layer3", "all"), **fields})
    config = dataclasses.replace(config or Config(weights="file"), study=asked)
    return make_grid(config, GROUPS, pretrained=True, classifier=True)


def test_each_strength_of_a_method_is_a_head_of_its_own():
    found = grid(methods=("l2_sp", "norm_only"), strengths=(0.333, 1.0, 3.0))
    assert list(found.heads) == [
        "traditional",
        "traditional+l2_sp.0.333",
        "traditional+l2_sp",
        "traditional+l2_sp.3",
        "traditional+norm_only",
    ]
    assert all(settings == PRESETS["traditional"] for settings in found.heads.values())
    assert found.rival("traditional+l2_sp.3").settings == MethodSettings(l2_sp=pytest.approx(0.3))
    assert found.rival("traditional+l2_sp.3").contestant == "traditional+l2_sp"
    assert found.rival("traditional").settings == METHODS[PLAIN]


def test_methods_are_tried_where_pretrained_layers_train():
    found = grid(methods=("bss",))
    assert found.depths["traditional"] == ("none", "layer3", "layer4")
    assert found.depths["traditional+bss"] == ("none", "layer3")
    with pytest.raises(UserError, match=r"The head traditional\+bss has none of the depths"):
        grid(methods=("bss",), depths=("all",))
    # Of a kept head, the classification layer trains above layer4.
    assert grid(heads=("kept",), methods=("bss",), depths=("layer4", "all")).depths["kept+bss"] == ("layer4",)


def test_every_method_has_the_same_number_of_settings():
    found = grid(preset="rivals", depths=("layer3",), heads=())
    counts: dict[str, int] = {}
    for group in found.groups():
        name = found.rival(group[0]).contestant
        counts[name] = counts.get(name, 0) + len(found.rates_of(group))
    assert set(counts) == {"traditional", *(f"traditional+{name}" for name in METHODS if name != PLAIN)}
    assert set(counts.values()) == {15}


def test_finer_rates_lie_between_and_beyond():
    assert finer_rates((0.01, 0.1), 1) == (0.01, 0.1)
    found = finer_rates((0.01, 0.1, 1.0), 3)
    assert len(found) == 9 and {0.01, 0.1, 1.0} <= set(found)
    np.testing.assert_allclose(np.diff(np.log10(found)), 1 / 3, atol=2e-3)


def test_heads_without_pretrained_layers_to_train_have_no_methods():
    heads = {"scratch": PRESETS["traditional"], "lda": PRESETS["lda"], "kept": PRESETS["kept"]}
    found, rivals = with_methods(heads, ("l2_sp", "plain"), ())
    assert list(found) == ["scratch", "lda", "kept", "kept+l2_sp"] and set(rivals) == set(found)


def test_the_method_of_the_config_is_that_of_the_heads():
    config = Config(weights="file", method=MethodConfig("l2_sp", l2_sp=0.4))
    found = grid(config, methods=("bss",))
    assert found.rival("traditional").settings == MethodSettings(l2_sp=0.4)
    assert found.rival("traditional+bss").settings == METHODS["bss"]
    with pytest.raises(UserError, match="config.method.l2_sp=0.4 pulls to the pretrained weights, but"):
        grid(config, heads=("traditional", "scratch"))


def test_unknown_methods_and_strengths_are_named():
    with pytest.raises(UserError, match="config.study.methods: 'bs' is unknown. Did you mean 'bss'"):
        grid(methods=("bs",))
    with pytest.raises(UserError, match=r"config.study.strengths=\(0.0,\): 0 is not above 0"):
        grid(methods=("bss",), strengths=(0.0,))


def test_strengths_scale_what_they_mean():
    assert at_strength("bss", 3.0).bss == pytest.approx(0.003)
    assert at_strength("discriminative", 2.0).layer_decay == pytest.approx(0.81)
    assert at_strength("stoch_norm", 3.0).stoch_norm == 1.0
    assert places_of(at_strength("auto_rgn", 1.0)) == places_of(METHODS["auto_rgn"])


def test_validation_chooses_one_strength_of_each_method():
    found = grid(methods=("l2_sp",), strengths=(1.0, 3.0))
    scores = {"traditional": (0.9, 0.0), "traditional+l2_sp": (0.7, 0.0), "traditional+l2_sp.3": (0.8, 0.0)}
    chosen = at_best_strength({name: {"score": score} for name, score in scores.items()}, found)
    assert list(chosen) == ["traditional", "traditional+l2_sp.3"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study of two methods, with layer3 trained."""
    config = small.digits_config(weights="embedded:glyphs")
    config.data.views = 1
    config.study.update(
        {
            "preset": "",
            "heads": ("traditional",),
            "methods": ("l2_sp", "bias_only"),
            "depths": ("layer2",),
            "seeds": (0,),
            "learning_rates": (0.01,),
        }
    )
    folder = tmp_path_factory.mktemp("rivals")
    return folder, study(config, folder), typed(config)


@pytest.mark.slow
def test_a_study_of_methods_is_one_with_a_row_and_a_line_for_each(done):
    folder, result, _ = done
    assert not any(row["error"] for row in result.rows)
    assert {(row["head"], row["method"]) for row in result.rows} == {
        ("traditional", "plain"),
        ("traditional+l2_sp", "l2_sp"),
        ("traditional+bias_only", "bias_only"),
    }
    counts = {row["head"]: row["trainable"] for row in result.rows}
    assert counts["traditional+bias_only"] < counts["traditional"] == counts["traditional+l2_sp"]
    lines = by_method(result)
    assert [line.head for line in lines] == ["traditional", "traditional+l2_sp", "traditional+bias_only"]
    assert lines[0].difference is None and lines[1].difference is not None
    page = (folder / "report.html").read_text()
    assert str(methods_section(result)) in page and "Difference to plain" in page
    header, *rows = (line.split(",") for line in (folder / "study.csv").read_text().splitlines())
    assert {row[header.index("method")] for row in rows} == {"plain", "l2_sp", "bias_only"}
