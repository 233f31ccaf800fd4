"""Heads in closed form within a study: which trials they have, and that a trial is the ordinary run."""

import csv
import dataclasses

import numpy as np
import pytest

from flax_augtl import load_run
from flax_augtl.config.convert import typed
from flax_augtl.config.schema import Config
from flax_augtl.errors import UserError
from flax_augtl.models.closed_form import fit_classifier
from flax_augtl.study.grid import Trial, make_grid
from flax_augtl.study.study import study
from flax_augtl.training.closed_form import penultimate
from flax_augtl.training.experiment import prepare
from tests import small

GROUPS = ("stem", "layer1", "layer2", "layer3", "fc")


def study_config(**changes):
    config = small.digits_config(weights="embedded:glyphs")
    config.data.views = 2
    config.study.update(
        {
            "preset": "",
            "heads": ("lda", "traditional"),
            "depths": ("layer3", "all"),
            "seeds": (0, 1),
            "learning_rates": (0.01, 0.05),
            **changes,
        }
    )
    return config


def test_a_head_in_closed_form_has_one_depth_and_one_setting():
    config = dataclasses.replace(Config(), study=typed(study_config(depths=("none", "layer2", "all"))).study)
    grid = make_grid(config, GROUPS, pretrained=True, classifier=True)
    assert [group for group in grid.groups() if group[0] == "lda"] == [("lda", "layer3", "pretrained")]
    assert grid.rates_of(("lda", "layer3", "pretrained")) == (0.0,)
    assert grid.rates_of(("traditional", "none", "pretrained")) == (0.01, 0.05)
    assert grid.settings == 1 + 3 * 2
    assert Trial("select", "lda", "layer3", "pretrained", 0.0, 3).name == "select-lda-layer3-0-3"
    config = dataclasses.replace(config, study=dataclasses.replace(config.study, depths=("none",)))
    with pytest.raises(UserError, match=r"The head lda has none of the depths config.study.depths=\('none',\)"):
        make_grid(config, GROUPS, pretrained=True, classifier=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, study(study_config(search="halving", heads=("lda",)), folder)


@pytest.mark.slow
def test_a_study_fits_tests_and_keeps_a_head_in_closed_form(done):
    folder, result = done
    assert result.best == "lda" and result.winners["lda"]["learning_rate"] == 0
    rows = list(csv.DictReader((folder / "study.csv").read_text().splitlines()))
    assert {(row["head"], row["fit"], row["depth"]) for row in rows} == {("lda", "lda", "all")}
    assert not any(row["error"] for row in result.rows)
    assert set(result.untrained) == {"layer3"} and set(result.leep["scores"]) == {"leep", "nce"}
    assert all(np.isfinite(value) for value in (*result.untrained["layer3"].values(), *result.leep["scores"].values()))
    final = next(row for row in result.rows if row["stage"] == "final" and row["seed"] == 0)
    assert "frozen (all) (computed in closed form)" in (folder / "report.html").read_text()
    run = load_run(folder / "best")
    assert run.config.head.fit == "lda" and run.config.steps is None
    assert run.evaluate("test")["top1"] == pytest.approx(final["test"]["top1"], abs=1e-9)
    # It is what a run fits to the same examples.
    start = prepare(typed(best_config()))
    assert final["examples_seen"] == len(start.dataset.train)
    features = penultimate(
        start.network, start.preprocessing, start.variables, start.dataset.train, start.config.data, batch_size=8
    )
    layer = fit_classifier(start.network.head.settings, features, start.dataset.train.labels, 10)
    found = run.variables["params"]["head"]["classifier"]["kernel"]
    np.testing.assert_allclose(found, layer["kernel"], atol=1e-3 * np.abs(layer["kernel"]).max())


def best_config():
    config = small.digits_config(weights="embedded:glyphs", freeze="all")
    config.head.preset = "lda"
    config.data.validation = 0.0
    return config


@pytest.mark.slow
def test_the_same_command_trains_nothing_again(done):
    folder, result = done
    again = study(study_config(search="halving", heads=("lda",)), folder)
    assert again.rows == result.rows
