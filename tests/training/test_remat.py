"""Computing activations twice changes memory, not gradients."""

import jax
import numpy as np
import pytest

from flax_augtl.training.step import AXIS
from tests import small
from tests.training.test_step import assert_close, batch_of, start, steps

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("freeze", ["none", "layer1"])
def test_remat_gives_the_same_steps(freeze):
    net = small.network("kept_deeper_batch", axis_name=AXIS)
    plan, state = start(net, freeze)
    twice = net.clone(source=net.source.clone(remat=True))
    batches = [batch_of(8, seed) for seed in range(2)]
    kept, scalars = steps(net, plan, state, batches, 2)
    again, other = steps(twice, plan, state, batches, 2)
    assert_close((kept.params, kept.batch_stats), (again.params, again.batch_stats))
    assert_close(scalars, other)


@pytest.mark.parametrize("family", small.NETWORKS)
def test_remat_gives_the_same_gradients_and_parameter_names(family):
    net = small.network("kept", family)
    twice = net.clone(source=net.source.clone(remat=True))
    size = small.NETWORKS[family][2]
    variables, images = small.variables(net, size), small.images(4, size)
    # A first layer that starts at zero would hide every gradient below.
    variables["params"]["head"]["classifier"]["kernel"] += 0.1

    def gradient(network):
        def loss(params):
            logits, _ = network.apply({**variables, "params": params}, images, train_from=0, mutable=["batch_stats"])
            return (logits[:, 0] ** 2).mean()

        return jax.grad(loss)(variables["params"])

    def repeated(network):
        jaxpr = jax.make_jaxpr(lambda: gradient(network))()
        return str(jaxpr).count("conv_general_dilated[")

    one, other = gradient(net), gradient(twice)
    assert_close(one, other)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(one["source"]["fc" if family == "resnet" else "fc8"]))
    assert repeated(twice) > repeated(net)
    assert jax.tree.structure(
        jax.eval_shape(lambda: twice.init(jax.random.key(0), images))["params"]
    ) == jax.tree.structure(variables["params"])
