"""Workdirs with names that other programs read as patterns: nothing is lost, and neighbours are left alone."""

import jax
import numpy as np
import pytest

import flax_augtl
from flax_augtl.export import export
from flax_augtl.study.study import study
from flax_augtl.training import checkpoints
from flax_augtl.training.checkpoints import CheckpointError
from flax_augtl.workdir import checksums, files
from flax_augtl.workdir.files import CannotWrite
from tests import small

pytestmark = pytest.mark.slow


def config(**changes):
    return small.digits_config(
        **{"weights": "embedded:glyphs", "freeze": "all", "steps": 2, "evaluate_every_steps": 1, **changes}
    )


def test_a_run_below_a_folder_with_brackets_is_loaded_extended_exported_and_transferred(tmp_path):
    workdir = tmp_path / "proj [2026]" / "run*?1"
    trained = flax_augtl.train(config(), workdir, quiet=True)
    loaded = flax_augtl.load_run(workdir)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, trained.variables)
    assert loaded.evaluate("test")["top1"] == trained.result["test"]["top1"]
    assert all(path.exists() for path in export(loaded))
    assert flax_augtl.train(config(steps=3), workdir, extend=True, quiet=True).result["best_step"] <= 3
    source = flax_augtl.load_source("resnet20", str(workdir))
    assert len(source.class_names) == 10


def test_the_checkpoints_of_a_neighbour_that_the_name_matches_are_not_merged(tmp_path):
    flax_augtl.train(config(), tmp_path / "run1", quiet=True)
    before = {path: path.read_bytes() for path in (tmp_path / "run1").rglob("*") if path.is_file()}
    flax_augtl.train(config(), tmp_path / "run*", quiet=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run1").rglob("*") if path.is_file()} == before
    for name in ("run1", "run*"):
        arrays = {path.name for path in (tmp_path / name / "checkpoints" / "2" / "network").iterdir()}
        assert "manifest.ocdbt" in arrays
        flax_augtl.load_run(tmp_path / name)


def test_a_study_below_a_folder_with_brackets_leaves_a_best_network_that_loads(tmp_path):
    settings = config()
    settings.data.views = 1
    settings.study.update(
        {
            "preset": "",
            "heads": ("traditional",),
            "depths": ("all",),
            "seeds": (0,),
            "learning_rates": (0.05,),
            "together": 1,
            "cache": "file",
            "checkpoint_seconds": 0.0,
        }
    )
    folder = tmp_path / "study [1]"
    result = study(settings, folder)
    assert flax_augtl.load_run(folder / "best").result["test"] == next(
        row["test"] for row in result.rows if row["stage"] == "final"
    )


def test_a_backslash_in_the_workdir_is_refused_before_training(tmp_path):
    with pytest.raises(CannotWrite, match=r"reads a backslash as the end of a folder's name"):
        flax_augtl.train(config(), tmp_path / "back\\slash", quiet=True)


def test_a_checkpoint_without_its_index_is_not_sound(tmp_path):
    flax_augtl.train(config(), tmp_path, quiet=True)
    newest = tmp_path / "checkpoints" / "2"
    (newest / "network" / "manifest.ocdbt").unlink()
    checksums.write(newest)  # As an earlier version did: it listed the files that were there.
    assert checksums.damage(newest) == "network has no manifest.ocdbt, without which its arrays cannot be found"
    assert flax_augtl.load_run(tmp_path, step="last").step == 1


def test_no_manifest_is_written_where_an_array_is_missing(tmp_path, monkeypatch):
    names = checkpoints.checkpoint_index.names_of
    monkeypatch.setattr(checkpoints.checkpoint_index, "names_of", lambda tree: names(tree) | {"params.lost"})
    with pytest.raises(CheckpointError, match=r"was written without 1 of its \d+ arrays, among them params\.lost"):
        flax_augtl.train(config(), tmp_path, quiet=True)
    assert not list(tmp_path.rglob("SHA256SUMS"))


def test_a_run_and_a_checkpoint_are_found_in_the_other_unicode_form(tmp_path):
    written, asked = tmp_path / "the\u0301", tmp_path / "th\u00e9"
    flax_augtl.train(config(), written, quiet=True)
    assert flax_augtl.load_run(asked).workdir == written
    assert len(flax_augtl.load_source("resnet20", str(asked)).class_names) == 10
    exported = export(flax_augtl.load_run(asked))[0]
    exported.copy(tmp_path / "mode\u0301le.safetensors")
    assert flax_augtl.load_source(None, str(tmp_path / "mod\u00e9le.safetensors")).name == "resnet20"
    assert not asked.exists()


def test_leftovers_are_removed_from_a_folder_with_brackets(tmp_path):
    folder, neighbour = tmp_path / "a [b]", tmp_path / "a b"
    for each in (folder, neighbour):
        each.mkdir()
        (each / ".result.json.1.tmp").touch()
    files.clear_leftovers(folder)
    assert not list(folder.iterdir()) and len(list(neighbour.iterdir())) == 1
