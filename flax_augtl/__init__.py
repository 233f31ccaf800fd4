"""Fine-tune ImageNet-trained networks with their classification layer kept and augmented."""

from typing import TYPE_CHECKING

from flax_augtl.runtime.lazy_imports import names_of

if TYPE_CHECKING:  # Type checkers and editors do not follow the lazy imports below.
    from flax_augtl.pretrained import Source, load_source
    from flax_augtl.run import Run, load_run, train
    from flax_augtl.version import __version__

_MODULES = {
    "Run": "run",
    "Source": "pretrained",
    "__version__": "version",
    "load_run": "run",
    "load_source": "pretrained",
    "train": "run",
}
# Earlier names of modules, which other people's programs use.
_ALIASES = {"interruption": "runtime.signals"}
__all__ = ["Run", "Source", "__version__", "load_run", "load_source", "train"]
__getattr__ = names_of(__name__, _MODULES, _ALIASES)


def __dir__() -> list[str]:
    return __all__
