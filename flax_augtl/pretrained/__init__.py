"""A checkpoint of any origin → a source network with its variables, preprocessing and class names."""

from flax_augtl.pretrained.convert import to_state_dict
from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.initial import random_variables
from flax_augtl.pretrained.preprocessing import Preprocessing
from flax_augtl.pretrained.source import Source, load_source
from flax_augtl.pretrained.written import write_safetensors

__all__ = [
    "CheckpointError",
    "Preprocessing",
    "Source",
    "load_source",
    "random_variables",
    "to_state_dict",
    "write_safetensors",
]
