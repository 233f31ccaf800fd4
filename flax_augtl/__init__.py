"""Fine-tune ImageNet-trained networks with their classification layer kept and augmented."""

from flax_augtl.runtime.lazy_imports import names_of

_MODULES = {"Run": "run", "Source": "pretrained", "load_run": "run", "load_source": "pretrained", "train": "run"}
# Modules under the names that programs of others use.
_ALIASES = {"interruption": "runtime.signals"}
__all__ = sorted(_MODULES)
__getattr__ = names_of(__name__, _MODULES, _ALIASES)


def __dir__() -> list[str]:
    return __all__
