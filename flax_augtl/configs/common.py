"""The defaults of every field: see docs/configuration.md. The other files here change some of them.

    python main.py --config=configs/common.py --config.data.root=FOLDER --workdir=DIR

trains the default network from random weights on a folder of images; see `folder.py` for pretrained weights.
"""

from typing import Any

from flax_augtl.config.convert import default_config


def get_config() -> Any:
    """Return the defaults, locked: a field that does not exist cannot be set by mistake."""
    return default_config()
