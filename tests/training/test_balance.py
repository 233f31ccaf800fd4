"""The warning about classes of unequal size."""

import numpy as np
import pytest

from flax_augtl.config.schema import Config
from flax_augtl.training.balance import imbalance

PLAIN = Config()


def test_ten_times_the_images_is_told_with_the_classes_and_the_remedy():
    said = imbalance(np.repeat([0, 1, 2], [400, 40, 90]), ("rust", "scab", "healthy"), PLAIN)
    assert said.startswith("Warning: the classes are unequal. rust has 400 training images, scab has 40.")
    assert "--config.balance_classes=True gives every class the same weight" in said


@pytest.mark.parametrize(
    ("counts", "config"),
    [
        ([399, 40], PLAIN),
        ([400, 40], Config(balance_classes=True)),
        ([400, 40], Config(class_weights=(1.0, 9.0))),
        ([400, 0], PLAIN),
    ],
)
def test_nothing_is_said_below_that_or_where_classes_are_weighted(counts, config):
    assert imbalance(np.repeat([0, 1], counts), ("a", "b"), config) is None
