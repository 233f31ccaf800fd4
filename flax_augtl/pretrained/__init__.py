"""A checkpoint of any origin → a source network with its variables, preprocessing and class names."""

from flax_augtl.runtime.lazy_imports import names_of

_MODULES = {
    "CheckpointError": "errors",
    "Preprocessing": "flax_augtl.data.images.preprocessing",
    "Source": "source",
    "load_source": "source",
    "random_variables": "flax_augtl.models.initializers",
    "to_state_dict": "convert",
    "write_safetensors": "save",
}
__all__ = sorted(_MODULES)
__getattr__ = names_of(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__
