"""Load a checkpoint of any origin as a source network with its variables, preprocessing and class names."""

from typing import TYPE_CHECKING

from flax_augtl.runtime.lazy_imports import names_of

if TYPE_CHECKING:  # Type checkers and editors do not follow the lazy imports below.
    from flax_augtl.data.images.preprocessing import Preprocessing
    from flax_augtl.models.initializers import random_variables
    from flax_augtl.pretrained.convert import to_state_dict
    from flax_augtl.pretrained.errors import CheckpointError
    from flax_augtl.pretrained.save import write_safetensors
    from flax_augtl.pretrained.source import Source, load_source

_MODULES = {
    "CheckpointError": "errors",
    "Preprocessing": "flax_augtl.data.images.preprocessing",
    "Source": "source",
    "load_source": "source",
    "random_variables": "flax_augtl.models.initializers",
    "to_state_dict": "convert",
    "write_safetensors": "save",
}
__all__ = [
    "CheckpointError",
    "Preprocessing",
    "Source",
    "load_source",
    "random_variables",
    "to_state_dict",
    "write_safetensors",
]
__getattr__ = names_of(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__
