"""The memory of a step as its compiler counts it, and what is said when there is too little."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_augtl
from flax_augtl.config.convert import typed
from flax_augtl.data import ArraySource, dataset_from_arrays
from flax_augtl.training import memory
from flax_augtl.training.compiled_steps import pmapped_eval_step, pmapped_train_step
from flax_augtl.training.experiment import prepare
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.pmapped import CompiledStep, split_over_devices
from flax_augtl.training.state import create_state
from tests import small


def config(**changes):
    return small.digits_config(
        **{"weights": "embedded:glyphs", "image_size": 24, "batch_size": 256, "head": {"preset": "kept"}, **changes}
    )


def compiled(**changes):
    """The compiled training step of an experiment, and its arguments."""
    experiment = prepare(typed(config(**changes)))
    plan = experiment.plan
    state = create_state(experiment.variables, create_optimizer(experiment.optimizer, plan), plan, seed=0)
    devices, size = jax.local_device_count(), experiment.config.batch_size
    batch = {name: np.zeros(size, kind) for name, kind in (("label", np.int32), ("id", np.uint32), ("view", np.int32))}
    batch["image"] = np.zeros((size, 24, 24, 3), np.uint8)
    step = pmapped_train_step(experiment.network, plan, experiment.optimizer, experiment.preprocessing, experiment.step)
    arguments = state, split_over_devices(batch, devices), np.float32(0.1), None
    return step.compiled(*arguments), arguments


def of_step(**changes):
    step, arguments = compiled(**changes)
    return memory.memory_of_step(step, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"freeze": "layer2", "optimizer": "adamw"}], ids=str)
def test_the_memory_of_a_step_is_what_its_compiler_counts(changes):
    step, (state, batch, rate, pool) = compiled(**changes)
    found = memory.memory_of_step(step, state, batch, rate, pool)
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.batch_stats)))
    assert found.parameters == parameters
    assert found.optimizer == sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    assert found.batch == 64 * (24 * 24 * 3 + 3 * 4)
    read = found.parameters + found.optimizer + found.batch
    # The rest of what the step reads: the rate, and the number of the step and the random key of the state.
    assert read < step.memory.arguments <= read + 64
    assert found.total == step.memory.total > step.memory.arguments + parameters / 2
    assert str(found).startswith(
        f"Memory on each device, as the compiler counts it, {found.total / 1e6:.1f} MB: parameters "
    )


@pytest.mark.slow
def test_what_saves_memory_is_seen_to_save_it():
    whole = of_step().computation
    assert of_step(accumulate=4).computation < 0.6 * whole
    assert of_step(freeze="layer2", optimizer="adamw").computation < 0.8 * whole


def test_nothing_is_said_where_the_compiler_does_not_tell():
    silent = SimpleNamespace(memory_analysis=lambda: None)
    assert CompiledStep(silent, 4).memory is None
    assert memory.memory_of_step(CompiledStep(silent, 4), None, None, None, None) is None


@pytest.mark.slow
def test_each_step_is_compiled_once(tmp_path, capsys):
    pmapped_train_step.cache_clear()
    pmapped_eval_step.cache_clear()
    compiled, listens = [], True

    def listener(event, seconds, fun_name="", **_):
        if listens and event == "/jax/core/compile/backend_compile_duration":
            compiled.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        run = flax_augtl.train(small.digits_config(), tmp_path)
        run.evaluate("test")
    finally:
        listens = False
    # pmap's programs: the training step and the evaluation step.
    assert sum("_fun" in name for name in compiled) == 2, compiled
    assert re.search(
        r"The training step was compiled in [\d.]+ s\.\nMemory on each device, as the compiler counts it, [\d.]+ MB: ",
        capsys.readouterr().err,
    )


def test_the_most_that_was_in_use_is_told_where_devices_count_it(monkeypatch):
    class Device:
        def __init__(self, **stats):
            self.memory_stats = lambda: stats or None

    assert memory.most_in_use() == ""  # Of CPUs.
    monkeypatch.setattr(
        jax,
        "local_devices",
        lambda: [
            Device(peak_bytes_in_use=2 * 10**9, bytes_limit=80 * 10**9),
            Device(peak_bytes_in_use=3 * 10**9),
            Device(),
        ],
    )
    assert memory.most_in_use() == "Peak memory of a device: 3.00 GB."
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(peak_bytes_in_use=2 * 10**9, bytes_limit=80 * 10**9)])
    assert memory.most_in_use() == "Peak memory of a device: 2.00 GB of 80.00 GB."


class Absurd(ArraySource):
    """Images that need 140 TB of the device."""

    def __getitem__(self, index):
        return np.asarray(jnp.zeros(2**45))


def test_out_of_memory_is_answered_with_what_would_help(tmp_path):
    images = np.arange(10, dtype=np.uint8).repeat(8 * 8 * 3).reshape(10, 8, 8, 3)
    dataset = dataset_from_arrays(images[:8], [0, 1] * 4, test=(images[8:], [0, 1]), data={"validation": 0})
    train = dataclasses.replace(dataset.train, source=Absurd(images[:8]))
    dataset = dataclasses.replace(dataset, train=train)
    data = {**config().data.to_dict(), "cache": "device"}
    with pytest.raises(
        memory.OutOfMemory,
        match=r"There is not enough memory \(RESOURCE_EXHAUSTED: Out of memory .*\)\. "
        r"What would help, .*config.accumulate=2 .*config.remat=True .*config.compute_dtype=bfloat16 .*"
        r"a deeper config.freeze than none .*config.batch_size below 256; a smaller config.image_size; "
        r"config.data.cache=auto",
    ):
        flax_augtl.train(config(data=data), tmp_path / "run", dataset=dataset, quiet=True)


def test_what_is_set_already_is_not_advised_and_other_errors_pass(tmp_path):
    with (
        pytest.raises(memory.OutOfMemory) as caught,
        memory.explain_out_of_memory(typed(config(remat=True, compute_dtype="bfloat16", freeze="all"))),
    ):
        jnp.zeros(2**45).block_until_ready()
    assert (
        "remat" not in str(caught.value) and "bfloat16" not in str(caught.value) and "freeze" not in str(caught.value)
    )
    with (
        pytest.raises(memory.OutOfMemory, match="The host has not enough memory \\(Unable to allocate .*file or none"),
        memory.explain_out_of_memory(typed(config())),
    ):
        np.zeros(2**60, np.uint8)
    with pytest.raises(jax.errors.JaxRuntimeError, match="boom"), memory.explain_out_of_memory(typed(config())):
        raise jax.errors.JaxRuntimeError("INTERNAL: boom")
