"""A run and a study that an earlier version wrote and was interrupted in: they load, and the same command resumes them.

earlier_version.tar.xz holds a run of four steps with the checkpoint of step 2, a study whose choosing trials are done, and
what that version wrote when it finished them. Since then the configuration has many more fields, the digits another test
split, and frozen weights a folder of their own.
"""

import csv
import json
import pathlib
import tarfile

import numpy as np
import pytest

import flax_augtl
from flax_augtl.study.study import study
from tests import small
from tests.integration import tiny_study

pytestmark = pytest.mark.slow

ARCHIVE = pathlib.Path(__file__).with_name("earlier_version.tar.xz")


@pytest.fixture
def earlier(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def config(**changes):
    return small.digits_config(weights="embedded:glyphs", freeze="all", **changes)


def test_an_unfinished_run_is_loaded_and_predicts(earlier):
    run = flax_augtl.load_run(earlier / "run", step="last")
    assert run.step == 2 and run.config.data.split_seed is None and run.config.data.flip == "none"
    probabilities = run.predict([np.zeros((9, 7, 3), np.uint8)])
    np.testing.assert_allclose(probabilities.sum(), 1.0, rtol=1e-5)
    # The test split of that version: all digits that this seed does not train on.
    assert run.evaluate("test")["n"] == 1757


def test_the_same_command_resumes_the_run_and_ends_as_that_version_did(earlier):
    run = flax_augtl.train(config(), earlier / "run", quiet=True)
    expected = json.loads((earlier / "expected_result.json").read_text())
    for split in ("test", "val"):
        for name, value in expected[split].items():
            assert run.result[split][name] == pytest.approx(value, rel=1e-5, abs=1e-6), (split, name)
    assert run.result["best_step"] == expected["best_step"]
    # Written out, a new field would differ from today's default, and the next start would be refused.
    assert "split_seed" not in json.loads((earlier / "run" / "config.json").read_text())["data"]
    longer = flax_augtl.train(config(steps=6), earlier / "run", extend=True, quiet=True)
    assert longer.result["test"]["n"] == 1757 and longer.config.steps == 6


def test_the_same_command_resumes_the_study_and_ends_as_that_version_did(earlier, capsys):
    study(tiny_study.get_config(), earlier / "study")
    trained = [line for line in capsys.readouterr().out.splitlines() if " select-" in line and "validation" in line]
    assert not trained  # What is done is not done again.

    def rows(path):
        with open(path, newline="") as file:
            return [
                {name: row[name] for name in ("stage", "head", "seed", "steps", "val_top1", "test_top1") if name in row}
                for row in csv.DictReader(file)
            ]

    found, expected = rows(earlier / "study" / "study.csv"), rows(earlier / "expected_study.csv")
    assert len(expected) == 6 and found == expected
