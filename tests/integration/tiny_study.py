"""A configuration of a study that is done in seconds: dense layers only, one cell at a time, kept after every evaluation."""

from tests import small


def get_config():
    """Return the configuration."""
    config = small.digits_config(weights="embedded:glyphs", steps=12)
    config.data.views = 2
    config.study.update(
        {
            "preset": "",
            "heads": ("traditional",),
            "depths": ("all",),
            "seeds": (0, 1, 2),
            "learning_rates": (0.02,),
            "together": 1,
            "checkpoint_seconds": 0.0,
            "cache": "file",
        }
    )
    return config
