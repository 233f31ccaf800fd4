"""Evidence maps: class activation maps and Grad-CAM against finite differences, for every family and kind of head."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.trust import evidence, feature_maps, overlays, penultimate
from tests import small


def made(family, preset):
    network = small.network(preset, family)
    size = max(16, network.source.smallest_image)
    return network, small.variables(network, size), small.images(2, size)


@pytest.mark.parametrize("family", small.NETWORKS)
def test_the_last_map_is_that_of_the_last_convolutions(family):
    network, variables, x = made(family, "traditional")
    group, _, averaged = feature_maps.last_map(network)
    stop = network.source.groups.index(group) + 1
    output, found = jax.jit(lambda x: feature_maps.with_map(network, variables, x, group, stop=stop))(x)
    assert group in ("layer3", "layer4", "layer3.0", "conv5", "conv4", "conv3")
    assert averaged == (output.shape == found.mean((1, 2)).shape)
    if averaged:
        np.testing.assert_allclose(output, found.mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "family, preset",
    [*((family, "traditional") for family in small.NETWORKS), ("resnet", "kept_deeper"), ("resnet", "wider")],
)
def test_a_map_is_the_change_of_the_score_when_a_place_grows(family, preset):
    network, variables, x = made(family, preset)
    group, _, averaged = feature_maps.last_map(network)
    classes = jnp.array([0, 2])
    found = np.asarray(jax.jit(lambda: evidence.evidence(network, variables, x, classes))())
    _, features = feature_maps.with_map(network, variables, x, group)

    @jax.jit
    def score(change):
        logits, _ = feature_maps.with_map(network, variables, x, group, change=change)
        return jnp.take_along_axis(logits, classes[:, None], 1)[:, 0]

    assert evidence.is_exact(network) == averaged
    assert found.shape == features.shape[:3]
    places = found.shape[1] * found.shape[2]
    y, z = found.shape[1] - 1, 0
    small_step = 1e-2
    # One place speaks as much for a class as its features change the score if all places had them.
    spread = np.broadcast_to(np.asarray(features)[:, y : y + 1, z : z + 1], features.shape)
    difference = (score(small_step * spread) - score(-small_step * spread)) / (2 * small_step)
    np.testing.assert_allclose(found[:, y, z], difference, rtol=2e-2, atol=2e-3)
    if averaged:
        alone = np.zeros(features.shape, np.float32)
        alone[:, y, z] = np.asarray(features)[:, y, z] * places
        difference = (score(small_step * alone) - score(-small_step * alone)) / (2 * small_step)
        np.testing.assert_allclose(found[:, y, z], difference, rtol=2e-2, atol=2e-3)


def test_under_a_linear_head_the_mean_of_a_map_is_the_score_without_its_bias():
    network, variables, x = made("resnet", "traditional")
    logits = jax.jit(network.apply)(variables, x)
    for number in range(3):
        found = jax.jit(lambda c: evidence.evidence(network, variables, x, c))(jnp.full(2, number))
        bias = variables["params"]["head"]["classifier"]["bias"][number]
        np.testing.assert_allclose(found.mean((1, 2)) + bias, logits[:, number], rtol=1e-4, atol=1e-5)


def test_an_overlay_colours_what_speaks_for_the_class_and_nothing_else():
    image = np.full((8, 8, 3), 100, np.uint8)
    drawn = overlays.overlay(image, np.array([[4.0, -9.0], [-9.0, -9.0]]))
    assert drawn[0, 0, 0] > 150 > drawn[0, 0, 2] and np.array_equal(drawn[7, 7], image[7, 7])
    for nothing in (np.full((2, 2), -1.0), np.zeros((2, 2)), np.full((2, 2), np.nan)):
        assert np.array_equal(overlays.overlay(image, nothing), image)


@pytest.mark.parametrize("family, preset", [("resnet", "kept_deeper"), ("resnet", "wider"), ("vgg", "kept_deeper")])
def test_maps_of_the_program_that_computes_features_are_the_same(family, preset):
    network, variables, _ = made(family, preset)
    size = max(16, network.source.smallest_image)
    trained = types.SimpleNamespace(
        network=network, variables=variables, preprocessing=Preprocessing(image_size=size, crop_fraction=1.0)
    )
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    classes = np.array([0, 2, 1])
    found = evidence.evidence_of(trained, images, classes, 4)
    x = trained.preprocessing.normalise(images)
    expected = jax.jit(lambda: evidence.evidence(network, variables, x, classes))()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    *_, pooled = penultimate.compiled_features_step(network, trained.preprocessing)(variables, images)
    assert (pooled is not None) == evidence.is_exact(network)
