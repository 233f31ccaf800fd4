"""`config.deterministic`: XLA's flags before JAX starts, and an error where it is too late."""

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_augtl
from flax_augtl import cli
from flax_augtl.models.pooling import gradient_by_places, max_pool
from flax_augtl.runtime import determinism
from flax_augtl.study.study import study
from flax_augtl.training.compiled_steps import compiled_predict_step, pmapped_train_step
from flax_augtl.training.freezing import freezing_plan
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.pmapped import split_over_devices
from flax_augtl.training.state import create_state
from flax_augtl.training.step import AXIS, StepSettings
from tests import small
from tests.conftest import ROOT
from tests.training.test_step import OPTIMIZER, PREPROCESSING, batch_of


@pytest.fixture
def gpu_is_likely(monkeypatch):
    """Pretend that JAX can use a GPU, and keep what XLA is told out of other tests."""
    monkeypatch.setattr(determinism, "gpu_expected", lambda: True)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")


@pytest.fixture
def not_started(monkeypatch):
    monkeypatch.setattr(determinism, "has_started", lambda: False)
    before = jax.config.jax_persistent_cache_enable_xla_caches
    yield
    jax.config.update("jax_persistent_cache_enable_xla_caches", before)


@pytest.mark.usefixtures("gpu_is_likely", "not_started")
def test_the_flags_are_added_to_those_of_the_user(tmp_path, monkeypatch):
    determinism.start(tmp_path / "run")
    assert os.environ["XLA_FLAGS"].split() == [
        "--xla_cpu_enable_fast_math=false",
        "--xla_gpu_deterministic_ops=true",
        f"--xla_gpu_per_fusion_autotune_cache_dir={tmp_path / 'run' / 'autotuned'}",
    ]
    assert (tmp_path / "run" / "autotuned").is_dir() and determinism.is_on()
    assert jax.config.jax_persistent_cache_enable_xla_caches == "none"
    # Another run of the same process: XLA has read its flags.
    monkeypatch.setattr(determinism, "has_started", lambda: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    determinism.start(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("gpu_is_likely", "not_started")
@pytest.mark.parametrize("workdir", ["gs://bucket/run", "a folder with spaces/run", "file/run"])
def test_where_xla_cannot_keep_its_choices_it_only_chooses_without_measuring(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    determinism.start(workdir)
    assert os.environ["XLA_FLAGS"].split() == ["--xla_cpu_enable_fast_math=false", "--xla_gpu_deterministic_ops=true"]


@pytest.mark.usefixtures("gpu_is_likely")
def test_too_late_is_an_error_on_a_gpu_and_no_matter_elsewhere(tmp_path, monkeypatch):
    jax.devices()
    determinism.start(tmp_path)  # On this CPU.
    assert not determinism.is_on()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(
        ValueError,
        match=r"config.deterministic=True came too late: .* Call flax_augtl.train before "
        r"anything else that uses JAX, or set .*=--xla_gpu_deterministic_ops=true",
    ):
        determinism.start(tmp_path)


class Started(BaseException):
    """Raised in the place of what follows."""


@pytest.mark.parametrize("wanted", [True, False])
def test_it_comes_before_anything_else_of_a_run_or_a_study(wanted, tmp_path, monkeypatch):
    def raise_started(*given):
        raise Started(*given)

    config = small.digits_config(deterministic=wanted)
    flags = SimpleNamespace(mode="train", config=config, workdir=str(tmp_path / "main"), traceback=False)
    monkeypatch.setattr(determinism, "start", raise_started)
    # What comes next, where it is not wanted.
    for name in ("flax_augtl.run.check_processes", "flax_augtl.study.study.check_folder", "flax_augtl.cli._start"):
        monkeypatch.setattr(name, lambda *given: (_ for _ in ()).throw(Started("next")))
    for act, workdir in ((flax_augtl.train, "run"), (study, "study"), (lambda *_: cli.run(flags), "main")):
        with pytest.raises(Started) as raised:
            act(config, tmp_path / workdir)
        assert str(raised.value) == (str(tmp_path / workdir) if wanted else "next")


@pytest.mark.parametrize(
    ("flags", "on"),
    [
        ("", False),
        ("--xla_gpu_deterministic_ops=true", True),
        ("--a=b --xla_gpu_deterministic_ops --c=d", True),
        ("--xla_gpu_deterministic_ops=false", False),
        ("--xla_gpu_exclude_nondeterministic_ops=1", True),
    ],
)
def test_flags_of_the_user_are_known(flags, on, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert determinism.is_on() == on


def test_no_gpu_is_expected_where_jax_is_told_so(monkeypatch):
    monkeypatch.setattr(determinism.importlib.util, "find_spec", lambda name: name == "jax_cuda13_plugin")
    for platforms, expected in (("cpu", False), ("tpu,cpu", False), ("", True), ("cuda,cpu", True), ("gpu", True)):
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        assert determinism.gpu_expected() == expected, platforms
    monkeypatch.setattr(determinism.importlib.util, "find_spec", lambda name: None)
    assert not determinism.gpu_expected()


def test_xla_accepts_the_flags_when_they_are_set_after_jax_is_imported(tmp_path):
    program = f"""
import os, sys
sys.modules  # JAX is imported, and has not started.
import jax
from flax_augtl.runtime import determinism
assert not determinism.has_started()
determinism.gpu_expected = lambda: True
determinism.start({str(tmp_path)!r})
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=3"
print(jax.device_count(), jax.jit(lambda x: x + 1)(1), determinism.has_started())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, check=True)
    # Three devices: XLA has read the flags, and would have ended the process for one that it does not know.
    assert done.stdout.split() == ["3", "2", "True"]


@pytest.mark.slow
def test_the_steps_take_the_same_as_options_of_the_compiler(tmp_path):
    net = small.network("kept_deeper_batch", axis_name=AXIS)
    plan = freezing_plan(net.groups, "layer1")
    step = pmapped_train_step(net, plan, OPTIMIZER, PREPROCESSING, StepSettings())

    def arguments():
        state = create_state(small.variables(net), create_optimizer(OPTIMIZER, plan), plan, seed=0)
        return state, split_over_devices(batch_of(8), jax.device_count()), np.float32(0.1), None

    options = {**determinism.OPTIONS, "xla_gpu_per_fusion_autotune_cache_dir": str(tmp_path)}
    ahead, _ = step.pmapped.lower(*arguments()).compile(compiler_options=options)(*arguments())
    usual, _ = step(*arguments())
    jax.tree.map(np.testing.assert_array_equal, ahead, usual)
    predict = compiled_predict_step(net, PREPROCESSING)
    images = batch_of(4)["image"]
    ahead = predict.lower(small.variables(net), images).compile(compiler_options=options)(small.variables(net), images)
    np.testing.assert_array_equal(ahead, predict(small.variables(net), images))
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option: 'xla_gpu_no_such'"):
        predict.lower(small.variables(net), images).compile(compiler_options={"xla_gpu_no_such": True})


def lowered_for_cuda():
    def loss(x):
        return jnp.sum(jnp.square(max_pool(x, 3, 2, 1)))

    return jax.jit(jax.grad(loss)).trace(jnp.ones((2, 6, 6, 4))).lower(lowering_platforms=("cuda",)).as_text()


def test_deterministic_pooling_has_nothing_that_xla_refuses(monkeypatch):
    # XLA has no deterministic select-and-scatter on a GPU.
    assert "select_and_scatter" in lowered_for_cuda()
    with gradient_by_places():
        assert "select_and_scatter" not in lowered_for_cuda()
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    assert "select_and_scatter" not in lowered_for_cuda()
