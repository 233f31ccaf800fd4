"""The optimizer and its schedules, against closed forms."""

import jax
import numpy as np
import optax
import pytest

from flax_augtl.config.optimizers import OPTIMIZERS
from flax_augtl.config.schedules import SCHEDULES
from flax_augtl.config.schema import ScheduleConfig
from flax_augtl.training.freezing import FreezingPlan
from flax_augtl.training.optimizer import OptimizerSettings, create_optimizer, learning_rates

PLAN = FreezingPlan(("stem", "layer1", "head"), ("frozen", "pretrained", "new"))


def tree(value):
    layer = {"kernel": np.full((2, 3), value, np.float32), "bias": np.full(3, value, np.float32)}
    return {"source": {"stem": layer, "layer1": layer}, "head": {"classifier": layer}}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_parameters_get_no_update_even_with_weight_decay(name):
    optimizer = create_optimizer(OptimizerSettings(name, weight_decay=0.1), PLAN)
    state = optimizer.init(tree(1.0))
    for _ in range(3):
        updates, state = optimizer.update(tree(1.0), state, tree(1.0))
    for leaf in jax.tree.leaves(updates["source"]["stem"]):
        np.testing.assert_array_equal(leaf, 0)
    for leaf in jax.tree.leaves([updates["source"]["layer1"], updates["head"]]):
        assert (np.abs(leaf) > 0.1).all()


def test_the_trainable_partition_gets_the_same_updates_as_the_whole_tree():
    optimizer = create_optimizer(OptimizerSettings(weight_decay=0.1), PLAN)
    whole, _ = optimizer.update(tree(1.0), optimizer.init(tree(1.0)), tree(1.0))
    part = PLAN.partition(tree(1.0))[0]
    state = optimizer.init(part)
    updates, _ = optimizer.update(part, state, part)
    jax.tree.map(np.testing.assert_array_equal, updates, PLAN.partition(whole)[0])
    momenta = [leaf for leaf in jax.tree.leaves(state) if np.ndim(leaf)]
    assert sum(leaf.size for leaf in momenta) == sum(leaf.size for leaf in jax.tree.leaves(part))


def test_sgd_in_closed_form():
    settings = OptimizerSettings("sgd", momentum=0.9, weight_decay=0.1, new_layer_multiplier=10.0)
    optimizer = create_optimizer(settings, PLAN)
    state = optimizer.init(tree(2.0))
    first, state = optimizer.update(tree(1.0), state, tree(2.0))
    second, _ = optimizer.update(tree(1.0), state, tree(2.0))
    gradient = 1 + 0.1 * 2  # Weight decay of kernels only.
    for updates, factor in ((first, 1.9), (second, 1 + 0.9 * 1.9)):  # Nesterov: g + 0.9 v, v = 0.9 v + g.
        np.testing.assert_allclose(updates["source"]["layer1"]["kernel"], factor * gradient, rtol=1e-6)
        np.testing.assert_allclose(updates["source"]["layer1"]["bias"], factor, rtol=1e-6)
        np.testing.assert_allclose(updates["head"]["classifier"]["kernel"], 10 * factor * gradient, rtol=1e-6)


def test_adamw_is_optax_adamw():
    settings = OptimizerSettings("adamw", weight_decay=0.1, new_layer_multiplier=1.0)
    optimizer = create_optimizer(settings, PLAN)
    reference = optax.adamw(1.0, weight_decay=0.1, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params))
    state, other = optimizer.init(tree(2.0)), reference.init(tree(2.0))
    for gradient in (1.0, -0.5):
        updates, state = optimizer.update(tree(gradient), state, tree(2.0))
        expected, other = reference.update(tree(gradient), other, tree(2.0))
    np.testing.assert_allclose(
        -updates["source"]["layer1"]["kernel"], expected["source"]["layer1"]["kernel"], rtol=1e-6
    )
    np.testing.assert_allclose(-updates["source"]["layer1"]["bias"], expected["source"]["layer1"]["bias"], rtol=1e-6)


def test_the_gradient_is_clipped_by_the_norm_of_what_trains():
    optimizer = create_optimizer(
        OptimizerSettings("sgd", momentum=0.0, gradient_clip=1.0, new_layer_multiplier=1.0), PLAN
    )
    part = PLAN.partition(tree(2.0))[0]
    updates, _ = optimizer.update(part, optimizer.init(part), part)
    np.testing.assert_allclose(optax.tree.norm(updates), 1.0, rtol=1e-6)


def schedule(**fields):
    return ScheduleConfig(**fields)


def test_cosine_with_warmup():
    rates = learning_rates(schedule(final=0.1), 2.0, 12, warmup=4)
    np.testing.assert_allclose(rates[:4], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(8) / 7))
    np.testing.assert_allclose(rates[4:], 2.0 * (0.9 * cosine + 0.1), rtol=1e-5)
    # Runs of earlier versions keep their schedule, which ended a step short of the last rate.
    rates = learning_rates(schedule(final=0.1, reaches_final=False), 2.0, 12, warmup=4)
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(8) / 8))
    np.testing.assert_allclose(rates[4:], 2.0 * (0.9 * cosine + 0.1), rtol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize(("steps", "warmup"), [(8, 0), (8, 3), (2, 0)])
def test_the_last_step_has_the_final_rate(name, steps, warmup):
    rates = learning_rates(schedule(name=name, final=0.1), 3.0, steps, warmup=warmup)
    np.testing.assert_allclose([rates.max(), rates[-1]], [3.0, 0.3], rtol=1e-6)
    assert learning_rates(schedule(name=name), 3.0, steps, warmup=warmup)[-1] == pytest.approx(0, abs=1e-7)
    # A single step has the highest rate.
    np.testing.assert_array_equal(learning_rates(schedule(name=name, final=0.1), 3.0, warmup + 1, warmup=warmup)[-1], 3)


def test_every_schedule_and_optimizer_of_the_tables_is_built():
    for name in SCHEDULES:
        rates = learning_rates(schedule(name=name), 1.0, 6, warmup=2, boundaries=(4,))
        assert rates.shape == (6,) and rates[1] == rates.max() == 1
    for name in OPTIMIZERS:
        optimizer = create_optimizer(OptimizerSettings(name), PLAN)
        updates, _ = optimizer.update(tree(1.0), optimizer.init(tree(1.0)), tree(1.0))
        assert np.isfinite(updates["head"]["classifier"]["kernel"]).all()


def test_linear_with_warmup():
    rates = learning_rates(schedule(name="linear", final=0.25), 4.0, 6, warmup=2)
    np.testing.assert_allclose(rates, [2, 4, 4, 3, 2, 1], rtol=1e-6)


def test_steps_and_constant():
    np.testing.assert_allclose(
        learning_rates(schedule(name="step"), 1.0, 6, boundaries=(2, 4)), [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-5
    )
    np.testing.assert_allclose(
        learning_rates(schedule(name="step"), 1.0, 6, warmup=2, boundaries=(4,)), [0.5, 1, 1, 1, 0.1, 0.1], rtol=1e-5
    )
    # Two boundaries on one step count twice; one within the warm-up counts from its end on.
    np.testing.assert_allclose(
        learning_rates(schedule(name="step"), 1.0, 4, boundaries=(2, 2, 3)), [1, 1, 0.01, 0.001], rtol=1e-5
    )
    np.testing.assert_allclose(
        learning_rates(schedule(name="step"), 1.0, 4, warmup=2, boundaries=(1, 1)), [0.5, 1, 0.01, 0.01], rtol=1e-5
    )
    np.testing.assert_array_equal(learning_rates(schedule(name="constant"), 0.5, 3), np.full(3, 0.5, np.float32))


@pytest.mark.parametrize(
    ("fields", "extra", "message"),
    [
        ({"name": "step"}, {}, "needs config.schedule.boundaries_epochs"),
        ({}, {"warmup": 5}, "takes 5 steps, but the run has only 5"),
    ],
)
def test_mistakes_are_named(fields, extra, message):
    with pytest.raises(ValueError, match=message):
        learning_rates(schedule(**fields), 1.0, 5, **extra)
