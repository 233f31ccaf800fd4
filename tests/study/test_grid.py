"""The grid: what it chooses, what it keeps, and that validation alone chooses."""

import dataclasses
import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from flax_augtl.study import grid
from flax_augtl.study.variants import variants_of
from tests import small


def rows(values):
    """Results of (rate, seed, val, loss, best step)."""
    return [dict(zip(("learning_rate", "seed", "val", "val_loss", "best_step"), row, strict=True)) for row in values]


def test_the_rate_with_the_best_mean_validation_is_chosen():
    results = rows([(0.1, 0, 0.9, 1.0, 10), (0.1, 1, 0.5, 1.0, 20), (0.2, 0, 0.8, 1.0, 30), (0.2, 1, 0.8, 1.0, 41)])
    assert grid.choose_rate(results) == (0.2, 36)


def test_equal_accuracies_are_decided_by_the_loss():
    results = rows([(0.1, 0, 0.9, 0.5, 10), (0.2, 0, 0.9, 0.4, 30), (0.3, 0, 0.9, 0.6, 50)])
    assert grid.choose_rate(results) == (0.2, 30)


def study_config(**changes):
    config = small.digits_config(**changes)
    with config.unlocked():
        config.variants = ConfigDict({"b": {"freeze": "none"}, "a": {"optimizer": "adamw"}}, sort_keys=False)
        config.study = ConfigDict({"learning_rates": (0.1, 0.2, 0.4), "seeds": (0, 1)})
    return config


def test_variants_keep_their_order_and_change_their_fields_only():
    variants = variants_of(study_config())
    assert list(variants) == ["b", "a"] and variants["a"].optimizer == "adamw" and variants["b"].optimizer == "sgd"
    assert variants["a"].name == "test/a" and not variants["a"].variants


def test_a_variant_with_an_unknown_field_is_an_error():
    config = study_config()
    with config.unlocked():
        config.variants = ConfigDict({"a": {"optimiser": "adamw"}})
    with pytest.raises(ValueError, match="config.variants.a: .*optimiser"):
        variants_of(config)


@pytest.fixture
def pretended(monkeypatch):
    """Cells that are measured by a formula: validation is best at 0.2 for `b`, and at 0.8, off the grid, for `a`."""
    trained = []

    def run_cell(cell, config):
        trained.append(cell)
        best = {"a": 0.8, "b": 0.2}[cell.variant]
        value = 1 - abs(np.log(cell.learning_rate / best)) / 10 + 0.01 * cell.seed
        row = {**dataclasses.asdict(cell), "seconds": 0.1, "best_step": 3, "val": value, "val_loss": 1 - value}
        return row if cell.stage == "select" else row | {"val": None, "test": value, "metric": "top1"}

    monkeypatch.setattr(grid, "run_cell", run_cell)
    return trained


def test_a_choice_at_the_edge_widens_the_grid(pretended, tmp_path, capsys):
    grid.study(study_config(), tmp_path)
    rates = {name: sorted({cell.learning_rate for cell in pretended if (cell.variant, cell.stage) == (name, "select")})
             for name in "ab"}
    assert rates == {"a": [0.1, 0.2, 0.4, 0.8, 1.6], "b": [0.1, 0.2, 0.4]}
    finals = [(c.variant, c.learning_rate, c.seed, c.steps) for c in pretended if c.stage == "final"]
    assert finals == [("b", 0.2, 0, 3), ("b", 0.2, 1, 3), ("a", 0.8, 0, 3), ("a", 0.8, 1, 3)]
    said = capsys.readouterr().out
    assert "a: learning rate 0.4 is at the edge of the grid; trying 0.8" in said
    assert "no significance can be claimed" in said and "b minus it" in said


def test_finished_cells_are_not_trained_again_and_another_study_is_refused(pretended, tmp_path):
    first = grid.study(study_config(), tmp_path)
    count = len(pretended)
    (tmp_path / "cells" / "final-b-0.2-1.json").unlink()
    assert grid.study(study_config(), tmp_path) == first
    assert [cell.name for cell in pretended[count:]] == ["final-b-0.2-1"]
    with pytest.raises(ValueError, match="config.batch_size: 8 there, 16 here"):
        grid.study(study_config(batch_size=16), tmp_path)


def test_a_real_cell_is_the_same_twice_and_a_final_one_has_no_validation(monkeypatch):
    config = small.digits_config(weights="embedded:glyphs", freeze="all")
    cell = grid.Cell("select", "a", 0.1, 1)
    one, two = (grid.run_cell(cell, config) for _ in range(2))
    assert {**one, "seconds": 0} == {**two, "seconds": 0} and 0 <= one["val"] <= 1 and one["best_step"] in (2, 4)
    final = grid.run_cell(grid.Cell("final", "a", 0.1, 1, 2), config)
    assert final["val"] is None and final["steps"] == 2 and 0 <= final["test"] <= 1
    json.dumps(final)


def test_a_rate_that_diverges_is_not_chosen():
    config = small.digits_config(weights="embedded:glyphs", freeze="all")
    diverged = grid.run_cell(grid.Cell("select", "a", 1e30, 1), config)
    assert diverged["val"] is None and diverged["learning_rate"] == 1e30
    fine = {"learning_rate": 0.1, "seed": 1, "val": 0.1, "val_loss": 9.0, "best_step": 2}
    assert grid.choose_rate([diverged, fine]) == (0.1, 2)
    with pytest.raises(ValueError, match="No learning rate of the grid led to a finite loss"):
        grid.choose_rate([diverged])


def test_selection_cannot_see_the_test_split(monkeypatch):
    """With the test labels permuted a selecting cell measures the same."""
    from flax_augtl.training import experiment

    config = small.digits_config(weights="embedded:glyphs", freeze="all")
    cell = grid.Cell("select", "a", 0.1, 1)
    before = grid.run_cell(cell, config)
    load = experiment.load_dataset

    def permuted(data, *, seed):
        dataset = load(data, seed=seed)
        test = dataclasses.replace(dataset.test, labels=np.roll(dataset.test.labels, 1))
        return dataclasses.replace(dataset, test=test)

    monkeypatch.setattr(experiment, "load_dataset", permuted)
    assert {**grid.run_cell(cell, config), "seconds": 0} == {**before, "seconds": 0}
