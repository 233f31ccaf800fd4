"""A study for main.py that is done in under a minute."""

from ml_collections import ConfigDict

from tests import small


def get_config():
    """Return the configuration."""
    config = small.digits_config(weights="embedded:glyphs", freeze="all", batch_size=64)
    with config.unlocked():
        config.variants = ConfigDict({"kept": {"head": {"preset": "kept"}}, "traditional": {}}, sort_keys=False)
        config.study = ConfigDict({"learning_rates": (0.01,), "seeds": (0, 1)})
    return config
