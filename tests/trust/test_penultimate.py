"""Penultimate features: what the classification layer reads, for every kind of head."""

import types

import jax
import numpy as np
import pytest

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.trust.penultimate import penultimate_features
from tests import small

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
PREPROCESSING = Preprocessing(image_size=8)


def trained(preset):
    network = small.network(preset)
    return types.SimpleNamespace(network=network, preprocessing=PREPROCESSING, variables=small.variables(network))


@pytest.mark.parametrize("preset", ["traditional", "kept", "wider", "kept_deeper"])
def test_features_are_the_pooled_output_below_the_classification_layer(preset):
    run = trained(preset)
    features, logits = penultimate_features(run, [IMAGES[:3], IMAGES[3:]])
    x = PREPROCESSING.normalise(IMAGES)
    source = {collection: tree["source"] for collection, tree in run.variables.items() if "source" in tree}
    groups = [group for group in run.network.source.groups if group != "fc"]
    wanted = jax.jit(lambda x: run.network.source.apply(source, x, 0, len(groups)))(x)
    np.testing.assert_allclose(features, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits, jax.jit(run.network.apply)(run.variables, x), rtol=1e-4, atol=1e-5)
    assert features.dtype == logits.dtype == np.float32


def test_no_images_give_arrays_without_rows():
    features, logits = penultimate_features(trained("kept"), [])
    assert features.shape == (0, 8) and logits.shape == (0, 3)


def test_variables_on_several_devices_give_the_same_features():
    run = trained("traditional")
    mesh = jax.sharding.Mesh(jax.devices(), ("batch",))
    spread = jax.device_put(run.variables, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    other = types.SimpleNamespace(network=run.network, preprocessing=PREPROCESSING, variables=spread)
    np.testing.assert_array_equal(penultimate_features(run, [IMAGES])[0], penultimate_features(other, [IMAGES])[0])
