"""Frozen weights are written once, and every reader puts the network together again."""

import jax
import numpy as np
import pytest

import flax_augtl
from flax_augtl.training import checkpoints as module
from flax_augtl.training.checkpoints import CheckpointError, open_checkpoints
from flax_augtl.workdir import checksums, network_checkpoint
from tests import small

pytestmark = pytest.mark.slow


def config(**changes):
    return small.digits_config(
        **{"weights": "embedded:glyphs", "freeze": "all", "steps": 3, "evaluate_every_steps": 1, **changes}
    )


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_is_frozen_is_written_once(tmp_path):
    run = flax_augtl.train(config(), tmp_path, quiet=True)
    checkpoints = tmp_path / "checkpoints"
    assert checksums.damage(tmp_path / "frozen") == ""
    # ResNet-20 has 270,000 parameters; the head of ten classes has 650.
    assert size(tmp_path / "frozen") > 20 * size(checkpoints / "3" / "network") > 0
    jax.tree.map(
        np.testing.assert_array_equal,
        flax_augtl.load_run(tmp_path, step="last").variables["params"]["source"],
        run.variables["params"]["source"],
    )


def test_the_parts_are_the_whole():
    network = {
        "params": {"source": {"stem": {"kernel": 1}, "fc": {"bias": 2}}, "head": {"classifier": {"bias": 3}}},
        "batch_stats": {"source": {"stem": {"mean": 4}}},
    }
    changing, frozen = network_checkpoint.split(network, {"stem"})
    assert changing == {"params": {"source": {"fc": {"bias": 2}}, "head": {"classifier": {"bias": 3}}}}
    assert frozen == {"params": {"source": {"stem": {"kernel": 1}}}, "batch_stats": {"source": {"stem": {"mean": 4}}}}
    assert network_checkpoint.split(network, ())[1] == {}


def test_nothing_frozen_writes_no_second_place(tmp_path):
    flax_augtl.train(config(freeze="none"), tmp_path, quiet=True)
    assert not (tmp_path / "frozen").exists()


def test_damage_to_the_frozen_weights_is_damage_to_every_checkpoint(tmp_path):
    flax_augtl.train(config(), tmp_path, quiet=True)
    target = next(path for path in (tmp_path / "frozen" / "d").iterdir())
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"are damaged:\n  step 3: of the frozen weights in frozen/, d/"):
        flax_augtl.load_run(tmp_path)
    with pytest.raises(ValueError, match="cannot be used: of the frozen weights in frozen/, d/"):
        flax_augtl.load_source("resnet20", str(tmp_path))


def test_frozen_weights_without_a_checkpoint_are_of_nobody(tmp_path):
    folder = tmp_path / "frozen"
    folder.mkdir(parents=True)
    (folder / "old").write_text("of a run that was killed before its first checkpoint")
    flax_augtl.train(config(), tmp_path, quiet=True)
    assert not (folder / "old").exists() and checksums.damage(folder) == ""


def test_a_run_of_an_earlier_version_goes_on_with_whole_and_partial_checkpoints(tmp_path, monkeypatch):
    expected = flax_augtl.train(config(), tmp_path / "new", quiet=True)
    old = tmp_path / "old"
    opened = module.open_checkpoints
    with monkeypatch.context() as patch:
        # Every checkpoint holds the whole network, as it was.
        patch.setattr(
            "flax_augtl.run.open_checkpoints", lambda *places, frozen=(), **settings: opened(*places, **settings)
        )
        flax_augtl.train(config(), old, quiet=True)
    assert not (old / "frozen").exists()
    with open_checkpoints(old / "checkpoints") as checkpoints:
        checkpoints.remove_after(2)
    (old / "result.json").unlink()
    went_on = flax_augtl.train(config(), old, quiet=True)
    assert (old / "frozen").exists()
    jax.tree.map(np.testing.assert_array_equal, went_on.variables, expected.variables)
    jax.tree.map(
        np.testing.assert_array_equal,
        flax_augtl.load_run(old, step="2").variables,
        flax_augtl.load_run(tmp_path / "new", step="2").variables,
    )
