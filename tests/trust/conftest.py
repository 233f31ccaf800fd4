"""A run on images of digits, trained for a few steps."""

import pytest

import flax_augtl
from tests import small


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """A finished run with a validation split of 40 images."""
    config = small.digits_config(
        weights="embedded:glyphs", steps=6, evaluate_every_steps=6, report=True, familiarity=True,
        data={"name": "digits", "shots": 8, "validation": 0.5, "crop": "none", "flip": False, "shift": 1},
    )  # fmt: skip
    return flax_augtl.train(config, tmp_path_factory.mktemp("run") / "digits", quiet=True)
