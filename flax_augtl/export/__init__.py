"""A run as files for other programs: safetensors, ONNX, StableHLO, with a model card, here and on the Hub."""

from flax_augtl.runtime.lazy_imports import names_of

_MODULES = {
    "ExportError": "settings",
    "ExportSettings": "settings",
    "FORMATS": "settings",
    "export": "files",
    "load_export": "load",
}
__all__ = sorted(_MODULES)
__getattr__ = names_of(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__
