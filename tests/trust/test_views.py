"""Views: which pixels they are, and that probabilities are their means."""

import jax
import numpy as np
import pytest
from PIL import Image

from flax_augtl.data.images import inputs
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.data.load import examples_of
from flax_augtl.data.types import ArraySource
from flax_augtl.errors import UserError
from flax_augtl.trust import views

TO_SEE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
PREPROCESSING = Preprocessing(image_size=8, crop_fraction=0.8)


def test_ten_crop_is_the_centre_the_corners_and_their_mirror_images():
    found = views.views_of(TO_SEE, PREPROCESSING, "ten_crop")
    resized = np.asarray(PREPROCESSING.resized(Image.fromarray(TO_SEE)))
    assert resized.shape == (10, 16, 3)
    wanted = [PREPROCESSING.resize_and_crop(Image.fromarray(TO_SEE))]
    wanted += [resized[:8, :8], resized[:8, -8:], resized[-8:, :8], resized[-8:, -8:]]
    wanted += [crop[:, ::-1] for crop in wanted]
    np.testing.assert_array_equal(found, wanted)


def test_flip_is_the_image_and_its_mirror_image():
    found = views.views_of(TO_SEE, PREPROCESSING, "flip")
    one = views.views_of(TO_SEE, PREPROCESSING, "one")
    np.testing.assert_array_equal(found, [one, one[:, ::-1]])


def test_crops_of_an_image_that_is_not_larger_are_its_centre():
    small = Preprocessing(image_size=8, resize="none")
    found = inputs.network_crops(TO_SEE[:5, :6], small)
    assert all(np.array_equal(crop, found[0]) for crop in found)


def test_probabilities_are_means_over_the_views():
    step = jax.jit(lambda variables, images: jax.nn.softmax(images.astype(float).mean((1, 2)) @ variables))
    weights = np.random.default_rng(1).normal(size=(3, 4)) / 20
    batch = np.stack([views.views_of(image, PREPROCESSING, "ten_crop") for image in (TO_SEE, TO_SEE[::-1])])
    wanted = [np.asarray(step(weights, some)).mean(0) for some in batch]
    np.testing.assert_allclose(views.averaged(step, "ten_crop")(weights, batch), wanted, rtol=1e-5)
    assert views.averaged(step, "one") is step


def test_an_evaluation_has_the_metrics_of_the_averaged_probabilities():
    images = np.random.default_rng(2).integers(0, 256, (5, 12, 12, 3), np.uint8)
    examples = examples_of(ArraySource(images), np.array([0, 1, 2, 1, 0]), [str(i) for i in range(5)])
    weights = np.random.default_rng(1).normal(size=(3, 3)) / 20

    def step(variables, images):
        return jax.nn.softmax(images.astype(float).mean((1, 2)) @ variables)

    found = views.evaluation_of_views(step, weights, PREPROCESSING, examples, 3, "flip", batch_size=2)
    batch = np.stack([views.views_of(image, PREPROCESSING, "flip") for image in images])
    wanted = views.averaged(step, "flip")(weights, batch)
    np.testing.assert_allclose(found.probabilities, wanted, rtol=1e-5)
    assert found.metrics["top1"] == np.mean(wanted.argmax(1) == examples.labels)
    assert found.metrics["loss"] == pytest.approx(-np.log(wanted[np.arange(5), examples.labels]).mean(), rel=1e-5)
    assert found.metrics["n"] == 5


def test_unknown_views_are_an_error():
    with pytest.raises(UserError, match=r"^--views=five must be one of one, flip, ten_crop\.$"):
        views.views_of(TO_SEE, PREPROCESSING, "five")
