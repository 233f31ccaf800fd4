"""The pmapped steps: equal on all devices, the same for any number of them, and frozen means frozen."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from flax_augtl.pretrained import Preprocessing
from flax_augtl.training import metrics
from flax_augtl.training.compiled_steps import pmapped_train_step
from flax_augtl.training.freezing import freezing_plan
from flax_augtl.training.optimizer import OptimizerSettings, create_optimizer
from flax_augtl.training.pmapped import split_over_devices
from flax_augtl.training.state import create_state
from flax_augtl.training.step import AXIS, StepSettings, eval_step, train_step
from tests import small

PREPROCESSING = Preprocessing(image_size=8, crop_fraction=1.0)
OPTIMIZER = OptimizerSettings("sgd", weight_decay=0.01)


def batch_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 3, count, np.int32),
        "id": rng.integers(0, 1000, count, np.uint32),
        "view": np.zeros(count, np.int32),
    }


def start(net, freeze, optimizer=OPTIMIZER):
    plan = freezing_plan(net.groups, freeze)
    state = create_state(small.variables(net), create_optimizer(optimizer, plan), plan, seed=0)
    return plan, state


def steps(net, plan, state, batches, devices, settings=StepSettings(), optimizer=OPTIMIZER):  # noqa: B008
    """Some steps on the first so many devices."""
    step = functools.partial(
        train_step,
        network=net,
        plan=plan,
        optimizer=create_optimizer(optimizer, plan),
        preprocessing=PREPROCESSING,
        settings=settings,
        axis_name=AXIS,
    )
    step = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None, None), out_axes=None, devices=jax.devices()[:devices])
    for batch in batches:
        state, scalars = step(state, split_over_devices(batch, devices), np.float32(0.01), None)
    return state, scalars


def assert_close(one, other, rtol=2e-5, atol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("freeze", "more"),
    [("none", {}), ("layer2", {}), ("all", {"mixup": 0.2, "cutmix": 1.0, "jitter": 0.2, "erase": 0.5})],
)
def test_one_device_equals_four_and_all_shards_are_equal(freeze, more):
    net = small.network("kept_deeper_batch", axis_name=AXIS)
    plan, state = start(net, freeze)
    settings = StepSettings(shift=1, flip=True, label_smoothing=0.1, class_weights=(1.0, 2.0, 0.5), **more)
    batches = [batch_of(8, seed) for seed in range(3)]
    one, one_scalars = steps(net, plan, state, batches, 1, settings)
    four, four_scalars = steps(net, plan, state, batches, 4, settings)
    assert_close((one.params, one.batch_stats), (four.params, four.batch_stats))
    assert_close(one_scalars, four_scalars)
    for leaf in jax.tree.leaves(four):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 4
        for shard in shards[1:]:
            np.testing.assert_array_equal(shards[0], shard)


@pytest.mark.parametrize("more", [{}, {"accumulate": 2}, {"skip_not_finite": True}])
def test_a_batch_of_classes_without_weight_changes_nothing(more):
    net = small.network("kept_deeper_batch", axis_name=AXIS)
    plan, state = start(net, "layer2")
    settings = StepSettings(class_weights=(0.0, 1.0, 2.0), **more)
    # One step with weight, so that momentum would go on moving the parameters.
    state, _ = steps(net, plan, state, [batch_of(8)], 2, settings)
    before = jax.tree.map(np.asarray, state)
    weightless = {**batch_of(8, seed=1), "label": np.zeros(8, np.int32)}
    after, scalars = steps(net, plan, state, [weightless], 2, settings)
    assert scalars["loss"] == 0 and scalars["gradient_norm"] == 0
    assert after.step == before.step + 1
    jax.tree.map(
        np.testing.assert_array_equal,
        (after.params, after.batch_stats, after.opt_state),
        (before.params, before.batch_stats, before.opt_state),
    )


def test_a_class_without_weight_counts_for_nothing_beside_others():
    net = small.network("kept_deeper", axis_name=AXIS)
    plan, state = start(net, "all")
    mixed = {**batch_of(8), "label": np.array([0, 1, 0, 2, 0, 1, 0, 2], np.int32)}
    _, scalars = steps(net, plan, state, [mixed], 1, StepSettings(class_weights=(0.0, 1.0, 1.0)))
    plan, state = start(net, "all")
    others = {name: array[1::2] for name, array in mixed.items()}
    _, expected = steps(net, plan, state, [others], 1)
    np.testing.assert_allclose(scalars["loss"], expected["loss"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", small.NETWORKS)
def test_frozen_groups_keep_every_bit_at_every_depth(family):
    net = small.network("kept_deeper", family, axis_name=AXIS)
    size = small.NETWORKS[family][2]
    preprocessing = dataclasses.replace(PREPROCESSING, image_size=size)
    variables = small.variables(net, size)
    # A negative zero keeps its sign only if nothing at all is added to it.
    variables["params"]["source"][net.groups[0]]["conv1" if family == "resnet" else "conv0"]["kernel"][:] = -0.0
    batch = {**batch_of(4), "image": np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)}
    for freeze in ("none", *net.groups[:-1], "all"):
        plan = freezing_plan(net.groups, freeze)
        state = create_state(variables, create_optimizer(OPTIMIZER, plan), plan, seed=0)
        step = pmapped_train_step(net, plan, OPTIMIZER, preprocessing, StepSettings())
        for _ in range(2):
            state, _ = step(state, split_over_devices(batch, 4), np.float32(0.1), None)
        for index, group in enumerate(net.groups[:-1]):
            for collection, tree in (("params", state.params), ("batch_stats", state.batch_stats)):
                old, new = (jax.tree.leaves(t.get("source", {}).get(group, {})) for t in (variables[collection], tree))
                same = [a.tobytes() == np.asarray(b).tobytes() for a, b in zip(old, new, strict=True)]
                if index < plan.depth:
                    assert all(same), (freeze, group, collection)
                elif collection == "params":
                    assert not all(same), (freeze, group)


def test_accumulated_micro_batches_equal_one_batch():
    net = small.network("kept_deeper", axis_name=AXIS)
    plan, state = start(net, "all")  # Without trainable batch norm, whose statistics are those of a micro-batch.
    batches = [batch_of(16)]
    whole, scalars = steps(net, plan, state, batches, 2, StepSettings(class_weights=(1.0, 2.0, 0.5)))
    parts, other = steps(net, plan, state, batches, 2, StepSettings(class_weights=(1.0, 2.0, 0.5), accumulate=4))
    assert_close(whole.params, parts.params)
    assert_close(scalars, other)


def test_the_loss_is_the_weighted_mean_over_the_global_batch():
    net = small.network("traditional", axis_name=AXIS)
    plan, state = start(net, "all")
    batch, weights = batch_of(8), (1.0, 2.0, 0.0)
    _, scalars = steps(net, plan, state, [batch], 4, StepSettings(class_weights=weights))
    logits = net.apply(
        {"params": state.params, "batch_stats": state.batch_stats}, PREPROCESSING.normalise(batch["image"])
    )
    losses = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), batch["label"][:, None], 1)[:, 0]
    weight = np.array(weights)[batch["label"]]
    np.testing.assert_allclose(scalars["loss"], (weight * losses).sum() / weight.sum(), rtol=1e-5)
    np.testing.assert_allclose(scalars["top1"], (np.argmax(logits, 1) == batch["label"]).mean(), rtol=1e-6)


def test_new_layers_learn_ten_times_as_fast():
    net = small.network("traditional", axis_name=AXIS)
    optimizer = OptimizerSettings("sgd", momentum=0.0, new_layer_multiplier=1.0)
    plan, state = start(net, "none", optimizer)
    slow, _ = steps(net, plan, state, [batch_of(8)], 1, optimizer=optimizer)
    fast, _ = steps(
        net, plan, state, [batch_of(8)], 1, optimizer=dataclasses.replace(optimizer, new_layer_multiplier=10.0)
    )
    moved = [jax.tree.map(lambda a, b: np.asarray(a) - b, new.params, state.params) for new in (slow, fast)]
    assert_close(jax.tree.map(lambda a: 10 * a, moved[0]["head"]), moved[1]["head"], rtol=1e-2, atol=1e-6)
    assert_close(moved[0]["source"], moved[1]["source"])


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    net = small.network("kept_deeper", axis_name=AXIS)
    half = net.clone(
        source=net.source.clone(dtype=jax.numpy.dtype("bfloat16")),
        head=net.head.clone(dtype=jax.numpy.dtype("bfloat16")),
    )
    plan, state = start(net, "none")
    full_state, full = steps(net, plan, state, [batch_of(8)], 1)
    half_state, scalars = steps(half, plan, state, [batch_of(8)], 1)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(half_state.params))
    assert float(full["loss"]) != float(scalars["loss"])
    np.testing.assert_allclose(full["loss"], scalars["loss"], rtol=0.05)


def test_evaluation_does_not_depend_on_batches_padding_or_devices():
    net = small.network("kept_deeper", axis_name=AXIS)
    _, state = start(net, "none")
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    images = batch_of(13)
    values = []
    for devices, size in ((1, 13), (4, 8), (2, 4)):
        step = jax.pmap(
            functools.partial(eval_step, network=net, preprocessing=PREPROCESSING, axis_name=AXIS),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=jax.devices()[:devices],
        )
        sums = []
        for first in range(0, 13, size):
            rows = np.arange(first, first + size)
            batch = {
                "image": images["image"][rows % 13],
                "label": images["label"][rows % 13],
                "mask": (rows < 13).astype(np.float32),
            }
            sums.append(step(variables, split_over_devices(batch, devices)))
        values.append(metrics.summary(metrics.add(sums)))
    assert values[0]["n"] == 13
    assert values[1] == pytest.approx(values[0], rel=1e-5) and values[2] == pytest.approx(values[0], rel=1e-5)


def test_a_batch_that_does_not_divide_is_an_error_with_the_numbers():
    with pytest.raises(ValueError, match="A batch of 10 images does not divide by 4 devices: .* a multiple of 4"):
        split_over_devices(batch_of(10), 4)


def test_steps_of_equal_settings_share_one_compilation():
    net, again = small.network("kept", axis_name=AXIS), small.network("kept", axis_name=AXIS)
    plan = freezing_plan(net.groups, "all")
    assert pmapped_train_step(net, plan, OPTIMIZER, PREPROCESSING, StepSettings()) is pmapped_train_step(
        again, plan, OPTIMIZER, Preprocessing(image_size=8, crop_fraction=1.0), StepSettings()
    )
