"""The compiled steps can be lowered, and for TPUs compiled, for accelerators that are not here."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from flax_augtl.training.compiled_steps import (
    compiled_predict_step,
    pmapped_eval_step,
    pmapped_pack_step,
    pmapped_train_step,
)
from flax_augtl.training.freezing import freezing_plan
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.pmapped import split_over_devices
from flax_augtl.training.state import create_state
from flax_augtl.training.step import AXIS, StepSettings, eval_step, train_step
from flax_augtl.training.step_inputs import DeviceImages, KeptFeatures
from tests import small, tpu
from tests.training.test_step import OPTIMIZER, PREPROCESSING, batch_of

EVERYTHING = StepSettings(
    flip="both", rotate=15.0, shift=1, blur=1.0, jitter=0.2, erase=0.5, mixup=0.2, cutmix=1.0, label_smoothing=0.1
)


KINDS = [("none", True, StepSettings(accumulate=2)), ("layer2", False, EVERYTHING), ("all", False, StepSettings())]


def steps(devices, dtype, freeze, remat, settings):
    """Yield the traced train and eval steps over devices."""
    net = small.network("kept_deeper_batch", axis_name=AXIS)
    source = net.source.clone(dtype=jnp.dtype(dtype), remat=remat)
    net = net.clone(source=source, head=net.head.clone(dtype=jnp.dtype(dtype)))
    plan = freezing_plan(net.groups, freeze)
    state = create_state(small.variables(net), create_optimizer(OPTIMIZER, plan), plan, seed=0)
    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    common = {"network": net, "preprocessing": PREPROCESSING, "axis_name": AXIS}
    train = functools.partial(
        train_step, plan=plan, optimizer=create_optimizer(OPTIMIZER, plan), settings=settings, **common
    )
    batch = batch_of(16)
    masked = {"image": batch["image"], "label": batch["label"], "mask": np.ones(16, np.float32)}
    for step, specs, arguments in (
        (train, (whole, split, whole), (state, batch, np.float32(0.1))),
        (
            functools.partial(eval_step, **common),
            (whole, split),
            ({"params": state.params, "batch_stats": state.batch_stats}, masked),
        ),
    ):
        yield tpu.over(devices, step, specs).trace(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("freeze", "remat", "settings"), KINDS)
def test_the_steps_lower_for_accelerators(platform, dtype, freeze, remat, settings):
    for traced in steps(jax.devices(), dtype, freeze, remat, settings):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" in text and "stablehlo.all_reduce" in text
        assert ("bf16" in text) == (dtype == "bfloat16")


@pytest.fixture
def nothing_kept():
    """Keep no compiled program: those for devices that are not here cannot be read again."""
    name, before = "jax_persistent_cache_min_compile_time_secs", jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, before)


@pytest.mark.tpu
@pytest.mark.usefixtures("nothing_kept")
@pytest.mark.parametrize(("name", "count", "hosts"), [("v4-8", 4, 1), ("v4-16", 8, 2), ("v5e-2x4", 8, 2)])
@pytest.mark.parametrize(("freeze", "remat", "settings"), KINDS)
def test_the_steps_compile_for_tpus(name, count, hosts, freeze, remat, settings):
    pytest.importorskip("libtpu", reason="needs the extra `tpu`")
    devices = tpu.devices(name)
    assert len(devices) == count and len({device.process_index for device in devices}) == hosts
    for traced in steps(devices, "bfloat16", freeze, remat, settings):
        compiled = traced.lower(lowering_platforms=("tpu",)).compile()
        text = compiled.as_text()
        assert "all-reduce" in text and "bf16" in text and f"num_partitions={count}" in text
        assert compiled.memory_analysis().argument_size_in_bytes > 0


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("pool", [("resized", "cubic"), ("random", "")])
def test_the_step_on_a_data_set_on_the_device_lowers_for_accelerators(platform, pool):
    net = small.network("kept_deeper_batch", axis_name=AXIS)
    plan = freezing_plan(net.groups, "layer2")
    state = create_state(small.variables(net), create_optimizer(OPTIMIZER, plan), plan, seed=0)
    step = pmapped_train_step(
        net, plan, OPTIMIZER, PREPROCESSING, dataclasses.replace(EVERYTHING, inputs=DeviceImages(*pool))
    )
    batch = batch_of(16)
    images = {"images": np.zeros((20, 12, 12, 3), np.uint8), "sizes": np.full((20, 2), 12, np.int32)}
    batch |= {"index": np.arange(16, dtype=np.int32), "box": np.tile(np.int32([0, 0, 8, 8]), (16, 1))}
    del batch["image"]
    arguments = state, split_over_devices(batch, jax.device_count()), np.float32(0.1), images
    text = jax.jit(step.pmapped).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.convolution" in text and "stablehlo.all_reduce" in text


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_prediction_lowers_for_accelerators(platform):
    net = small.network("kept_deeper_batch", axis_name=AXIS)
    step = compiled_predict_step(net, PREPROCESSING)
    lowered = step.trace(small.variables(net), batch_of(4)["image"]).lower(lowering_platforms=(platform,))
    assert "stablehlo.convolution" in lowered.as_text()


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize(("trials", "count"), [(1, 1), (2, 3)])
def test_the_steps_of_a_study_lower_for_accelerators(platform, trials, count):
    net = small.network("kept_deeper", axis_name=AXIS)
    plan = freezing_plan(net.groups, "layer2")
    variables = small.variables(net)
    state = create_state(variables, create_optimizer(OPTIMIZER, plan), plan, seed=0)
    states, stacked = (jax.tree.map(lambda x: np.stack([x] * trials), tree) for tree in (state, variables))
    shape = jax.eval_shape(lambda: net.apply(variables, np.zeros((1, 8, 8, 3), np.float32), 0, plan.depth)).shape[1:]
    devices, rows = jax.device_count(), 2
    pool = {"inputs": np.zeros((20, *shape), np.float32)}
    settings = StepSettings(inputs=KeptFeatures(plan.depth))
    step = pmapped_pack_step(net, plan, OPTIMIZER, PREPROCESSING, settings, trials=trials, steps=count)
    batch = {name: np.zeros((devices, count, trials, rows), np.int32) for name in ("index", "label")}
    trained = jax.jit(step.pmapped).trace(states, batch, np.zeros((count, trials), np.float32), pool, np.int32(count))
    evaluation = pmapped_eval_step(net, PREPROCESSING, KeptFeatures(plan.depth), trials)
    batch = {name: np.zeros((devices, trials, rows), np.int32) for name in ("index", "label")}
    batch["mask"] = np.ones((devices, trials, rows), np.float32)
    for traced in (trained, jax.jit(evaluation.pmapped).trace(stacked, batch, pool)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" in text and "stablehlo.all_reduce" in text
        assert ("stablehlo.while" in text) == (traced is trained and count > 1)


def test_a_deterministic_step_has_nothing_that_xla_refuses_on_a_gpu(monkeypatch):
    # The networks for ImageNet have max-pooling, of whose gradient XLA has no deterministic form.
    net = small.network("traditional", "vgg", axis_name=AXIS)
    plan = freezing_plan(net.groups, "none")
    state = create_state(small.variables(net, 32), create_optimizer(OPTIMIZER, plan), plan, seed=0)
    preprocessing = dataclasses.replace(PREPROCESSING, image_size=32)
    batch = {**batch_of(8), "image": np.zeros((8, 32, 32, 3), np.uint8)}

    def text():
        step = pmapped_train_step.__wrapped__(net, plan, OPTIMIZER, preprocessing, StepSettings())
        traced = jax.jit(step.pmapped).trace(
            state, split_over_devices(batch, jax.device_count()), np.float32(0.1), None
        )
        return traced.lower(lowering_platforms=("cuda",)).as_text()

    assert "select_and_scatter" in text()
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    assert "select_and_scatter" not in text()
