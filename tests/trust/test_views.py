"""Views: which pixels they are, and that probabilities are their means."""

import jax
import numpy as np
import pytest
from PIL import Image

from flax_augtl.config.data_config import DataConfig
from flax_augtl.config.heads import PRESETS
from flax_augtl.data.images import inputs
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.data.load import examples_of
from flax_augtl.data.loading.image_stream import input_stream, source_stream, view_path
from flax_augtl.data.types import ArraySource
from flax_augtl.errors import UserError
from flax_augtl.models.augmented import create_network, initial_variables
from flax_augtl.trust import views
from flax_augtl.trust.predictor import Predictor
from flax_augtl.trust.trained import TrainedNetwork

TO_SEE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
PREPROCESSING = Preprocessing(image_size=8, crop_fraction=0.8)


@pytest.fixture(scope="module")
def trained():
    network = create_network("resnet20", PRESETS["traditional"], num_classes=3)
    return TrainedNetwork(network, PREPROCESSING, initial_variables(network, 0, 8))


def test_ten_crop_has_the_centre_and_the_corners():
    resized = np.asarray(PREPROCESSING.resized(Image.fromarray(TO_SEE)))
    assert resized.shape == (10, 16, 3)
    wanted = [PREPROCESSING.resize_and_crop(Image.fromarray(TO_SEE))]
    wanted += [resized[:8, :8], resized[:8, -8:], resized[-8:, :8], resized[-8:, -8:]]
    source = ArraySource(TO_SEE[None])
    with source_stream(source, [0], view_path(PREPROCESSING, "ten_crop"), DataConfig(), batch_size=4) as stream:
        (found,) = stream
    np.testing.assert_array_equal(found.pixels, [wanted])
    with input_stream([TO_SEE], PREPROCESSING, views="ten_crop", batch_size=4, threads=2) as stream:
        (found,) = stream
    np.testing.assert_array_equal(found.pixels, [wanted])


def test_crops_of_an_image_that_is_not_larger_are_its_centre():
    small = Preprocessing(image_size=8, resize="none")
    found = inputs.network_crops(TO_SEE[:5, :6], small)
    assert all(np.array_equal(crop, found[0]) for crop in found)


def test_probabilities_are_means_over_the_views(trained):
    crops = np.random.default_rng(1).integers(0, 256, (2, 5, 8, 8, 3), np.uint8)
    all_ten = np.concatenate([crops, crops[:, :, :, ::-1]], 1)
    each = Predictor(trained)(all_ten.reshape(20, 8, 8, 3))
    found = Predictor(trained, "ten_crop")(crops)
    np.testing.assert_allclose(found.probabilities, each.probabilities.reshape(2, 10, 3).mean(1), atol=1e-6)
    np.testing.assert_allclose(found.logits, each.logits[::10], atol=1e-5)
    np.testing.assert_allclose(found.features, each.features[::10], atol=1e-5)
    flip = Predictor(trained, "flip")(crops[:, 0])
    np.testing.assert_allclose(flip.probabilities, each.probabilities.reshape(2, 10, 3)[:, [0, 5]].mean(1), atol=1e-6)


def test_an_evaluation_has_the_metrics_of_the_averaged_probabilities():
    examples = examples_of(
        ArraySource(np.zeros((5, 8, 8, 3), np.uint8)), np.array([0, 1, 2, 1, 0]), [str(i) for i in range(5)]
    )
    wanted = np.asarray(jax.nn.softmax(np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)))
    found = views.evaluation_of_views([wanted[:2], wanted[2:4], wanted[4:]], examples, 3)
    np.testing.assert_array_equal(found.probabilities, wanted)
    assert found.metrics["top1"] == np.mean(wanted.argmax(1) == examples.labels)
    assert found.metrics["loss"] == pytest.approx(-np.log(wanted[np.arange(5), examples.labels]).mean(), rel=1e-5)
    assert found.metrics["n"] == 5


def test_unknown_views_are_an_error(trained):
    with pytest.raises(UserError, match=r"^--views=five must be one of one, flip, ten_crop\.$"):
        Predictor(trained, "five")
