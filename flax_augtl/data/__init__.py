"""Load labelled images, split them, and bring them to the devices."""

from flax_augtl.runtime.lazy_imports import names_of

_MODULES = {
    "ArraySource": "types",
    "DataError": "errors",
    "Dataset": "types",
    "Examples": "types",
    "UnreadablePicture": "errors",
    "check_there": "load",
    "dataset_from_arrays": "from_python",
    "dataset_from_files": "from_python",
    "eval_batches": "loading.loader",
    "load_dataset": "load",
    "train_batches": "loading.loader",
    "with_cache": "loading.cache",
}
__all__ = sorted(_MODULES)
__getattr__ = names_of(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__
