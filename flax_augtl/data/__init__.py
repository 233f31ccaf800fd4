"""Labelled pictures: where they come from, how they are split, and how they reach the device."""

from flax_augtl.lazy import names_of

_MODULES = {
    "ArraySource": "examples",
    "DataError": "errors",
    "Dataset": "examples",
    "Examples": "examples",
    "UnreadablePicture": "errors",
    "check_there": "load",
    "dataset_from_arrays": "given",
    "dataset_from_files": "given",
    "eval_batches": "loader",
    "load_dataset": "load",
    "train_batches": "loader",
    "with_cache": "cache",
}
__all__ = sorted(_MODULES)
__getattr__ = names_of(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__
