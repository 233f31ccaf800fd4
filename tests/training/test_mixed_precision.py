"""What stays in float32 when the computation is in bfloat16: parameters, sums, losses, and the norms of the head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from flax_augtl.models.layers import batch_norm
from flax_augtl.pretrained import Preprocessing
from flax_augtl.training.freezing import freezing_plan
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.state import create_state
from flax_augtl.training.step import AXIS, StepSettings, train_step
from tests import small
from tests.training.test_step import OPTIMIZER

BFLOAT16 = jnp.dtype("bfloat16")
SUMS = ("reduce_sum", "psum", "cumsum", "reduce_window_sum", "reduce_prod")


def operations(jaxpr):
    """All operations of a jaxpr, with those of the functions that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for each in value if isinstance(value, (tuple, list)) else (value,):
                each = getattr(each, "jaxpr", each)
                if isinstance(each, core.Jaxpr):
                    yield from operations(each)


def traced(family, preset, dtype=BFLOAT16):
    """The operations of a training step, and what it returns."""
    net = small.network(preset, family, axis_name=AXIS)
    net = net.clone(source=net.source.clone(dtype=dtype), head=net.head.clone(dtype=dtype))
    size = small.NETWORKS[family][2]
    plan = freezing_plan(net.groups, "none")
    state = create_state(small.variables(net, size), create_optimizer(OPTIMIZER, plan), plan, seed=0)
    step = functools.partial(
        train_step,
        network=net,
        plan=plan,
        optimizer=create_optimizer(OPTIMIZER, plan),
        preprocessing=Preprocessing(image_size=size, crop_fraction=1.0),
        settings=StepSettings(),
        axis_name=AXIS,
    )
    batch = {
        "image": np.zeros((4, size, size, 3), np.uint8),
        "label": np.zeros(4, np.int32),
        "id": np.zeros(4, np.uint32),
        "view": np.zeros(4, np.int32),
    }
    jaxpr, shapes = jax.make_jaxpr(step, axis_env=[(AXIS, 1)], return_shape=True)(state, batch, np.float32(0.1))
    return list(operations(jaxpr.jaxpr)), shapes


@pytest.mark.parametrize("family", small.NETWORKS)
@pytest.mark.parametrize("preset", ["kept_deeper", "kept_deeper_batch", "traditional", "wider"])
def test_every_sum_of_a_step_is_in_float32(family, preset):
    found, (state, scalars) = traced(family, preset)
    sums = [each for each in found if each.primitive.name.startswith(SUMS)]
    assert len(sums) > 10 and not [each for each in sums for read in each.invars if read.aval.dtype == BFLOAT16]
    # What costs time is in bfloat16 nevertheless.
    products = [each for each in found if each.primitive.name in ("conv_general_dilated", "dot_general")]
    narrow = [each for each in products if all(read.aval.dtype == BFLOAT16 for read in each.invars)]
    assert len(narrow) > 0.7 * len(products) > 0
    for leaf in jax.tree.leaves((state.params, state.batch_stats, state.opt_state, scalars)):
        assert leaf.dtype == np.float32


@pytest.mark.parametrize("family", small.NETWORKS)
def test_float32_has_no_bfloat16_in_it(family):
    found, _ = traced(family, "kept_deeper", jnp.dtype("float32"))
    assert not [each for each in found for out in each.outvars if getattr(out.aval, "dtype", None) == BFLOAT16]


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_statistics_of_bfloat16_are_summed_in_float32(mean):
    # 16384 values a channel: a sum in bfloat16 would stop to grow at 256 times its summands.
    x = (mean + np.random.default_rng(0).normal(size=(16, 32, 32, 2))).astype(BFLOAT16)
    norm = batch_norm(True, epsilon=1e-5, dtype=BFLOAT16, axis_name=None, name=None)
    y, changed = norm.init_with_output(jax.random.key(0), x)
    # `init` leaves the running averages; a second call moves them.
    _, changed = norm.apply(changed, x, mutable=["batch_stats"])
    exact = x.astype(np.float64)
    running = changed["batch_stats"]
    np.testing.assert_allclose(running["mean"], 0.1 * exact.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(running["var"], 0.9 + 0.1 * exact.var((0, 1, 2)), rtol=1e-5)
    assert y.dtype == BFLOAT16
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(np.asarray(y).astype(np.float64), expected, rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("norm", ["l2", "batch", "layer", "power"])
def test_the_norm_of_the_head_is_computed_in_float32(norm):
    net = small.network("kept", norm=norm, axis_name=None)
    head = net.head.clone(dtype=BFLOAT16)
    # Squares of these differ beyond what bfloat16 holds.
    x = (100 + np.random.default_rng(0).normal(size=(8, 7))).astype(BFLOAT16)
    variables = head.init(jax.random.key(0), x)

    def normalised(dtype):
        own = net.head.clone(dtype=jnp.dtype(dtype))
        _, kept = own.apply(variables, x.astype(dtype), mutable=["intermediates"], capture_intermediates=True)
        return jax.tree.leaves(kept["intermediates"]["classifier_norm"])[0]

    found = normalised("bfloat16")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, normalised("float32"), rtol=1e-5, atol=1e-5)
