"""A configuration as config.json has it."""

import json
from typing import Any

from ml_collections import ConfigDict

from flax_augtl.config import added_fields


def config_values(config: ConfigDict) -> dict[str, Any]:
    """Return a configuration as JSON values, with tuples as lists."""
    return added_fields.as_written(json.loads(config.to_json()))
