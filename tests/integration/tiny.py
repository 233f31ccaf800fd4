"""A configuration for main.py that is done in seconds."""

from tests import small


def get_config():
    """Return the configuration."""
    return small.digits_config(
        weights="embedded:glyphs",
        freeze="all",
        head={"preset": "kept_deeper", "new_layers": (16,)},
        report=True,
        familiarity=True,
    )
