"""Orbax's specifications of the storage are the same when they are made once a directory, and nothing is lost by them."""

import gc
import importlib.metadata
import sys
import tomllib

import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.serialization import tensorstore_utils
from orbax.checkpoint._src.serialization.ocdbt_process_spec import OcdbtProcessSpec

import flax_augtl.training.checkpoints  # noqa: F401  (has Orbax make them so)
from flax_augtl.training import orbax_leak
from tests.conftest import ROOT

ARRAYS = 100
BUILT = tensorstore_utils._build_ocdbt_kvstore_tspec
WRITE = tensorstore_utils.OcdbtKvStoreWriteOptions(
    mode=tensorstore_utils.OcdbtWriteMode.WRITE, target_data_file_size=1000
)
CALLS = [
    (("/a/b",), {}),
    (("/a/b", "kernel"), {}),
    (("/a/b",), {"name": "bias"}),
    (("gs://bucket/a", "kernel"), {}),
    (("/a/b", "kernel"), {"process_spec": OcdbtProcessSpec("3"), "write_options": WRITE}),
    (("/a/c", "kernel"), {"process_spec": None, "write_options": WRITE, "temporary_metadata_context": None}),
]


def test_the_installed_orbax_is_patched():
    # If this fails, Orbax has changed the function: see whether TensorStore still leaks, then adapt or remove the patch.
    assert hasattr(tensorstore_utils._build_ocdbt_kvstore_tspec, "__wrapped__"), importlib.metadata.version(
        "orbax-checkpoint"
    )


def test_the_lower_bound_of_orbax_is_the_first_version_that_can_be_patched():
    with (ROOT / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    assert f"orbax-checkpoint>={orbax_leak.SINCE}" in needed


def test_specifications_are_those_of_orbax():
    assert BUILT.__wrapped__ is not BUILT
    for arguments, settings in CALLS * 2:
        assert BUILT(*arguments, **settings) == BUILT.__wrapped__(*arguments, **settings)


def test_a_specification_belongs_to_who_asked_for_it():
    first = BUILT("/a/b", "kernel")
    first["base"]["path"] = first["path"] = "/elsewhere"
    assert BUILT("/a/b", "kernel") == BUILT.__wrapped__("/a/b", "kernel")


def test_a_directory_is_resolved_once():
    resolved = []

    def build(directory, name=None, **settings):
        resolved.append((directory, name, settings))
        return {"base": directory}

    built = orbax_leak.once_a_directory(build)
    assert [built("/a", str(number))["path"] for number in range(9)] == [str(number) for number in range(9)]
    assert "path" not in built("/a") and built("/b", "kernel")["base"] == "/b"
    assert resolved == [("/a", None, {}), ("/b", None, {})]


def test_what_is_not_known_is_left_alone(monkeypatch):
    def other(directory, name, something):
        raise AssertionError

    monkeypatch.setattr(tensorstore_utils, "_build_ocdbt_kvstore_tspec", other)
    orbax_leak.resolve_once_a_directory()
    assert tensorstore_utils._build_ocdbt_kvstore_tspec is other
    monkeypatch.delattr(tensorstore_utils, "_build_ocdbt_kvstore_tspec")
    orbax_leak.resolve_once_a_directory()
    assert not hasattr(tensorstore_utils, "_build_ocdbt_kvstore_tspec")


def test_a_checkpoint_leaves_nothing_behind_for_each_of_its_arrays(tmp_path):
    tree = {f"layer{number}": np.full((2, 3), number, np.float32) for number in range(ARRAYS)}

    def objects():
        gc.collect()
        return sys.getallocatedblocks()

    with ocp.CheckpointManager(tmp_path, options=ocp.CheckpointManagerOptions(max_to_keep=1)) as manager:
        for step in range(12):
            if step == 8:  # Caches have been filled.
                before = objects()
            manager.save(step, args=ocp.args.StandardSave(tree))
            manager.wait_until_finished()
        # Four strings for each array of four checkpoints would be 1600.
        assert objects() - before < 4 * ARRAYS
        assert manager.restore(11, args=ocp.args.StandardRestore(tree))["layer7"].tolist() == tree["layer7"].tolist()
