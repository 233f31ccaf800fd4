"""Load labelled images, split them, and bring them to the devices."""

from typing import TYPE_CHECKING

from flax_augtl.runtime.lazy_imports import names_of

if TYPE_CHECKING:  # Type checkers and editors do not follow the lazy imports below.
    from flax_augtl.data.errors import DataError, UnreadableImage, UnreadablePicture
    from flax_augtl.data.from_python import dataset_from_arrays, dataset_from_files
    from flax_augtl.data.load import check_there, load_dataset
    from flax_augtl.data.loading.cache import with_cache
    from flax_augtl.data.loading.loader import eval_batches, train_batches
    from flax_augtl.data.types import ArraySource, Dataset, Examples

_MODULES = {
    "ArraySource": "types",
    "DataError": "errors",
    "Dataset": "types",
    "Examples": "types",
    "UnreadableImage": "errors",
    "UnreadablePicture": "errors",  # The name of UnreadableImage in earlier versions.
    "check_there": "load",
    "dataset_from_arrays": "from_python",
    "dataset_from_files": "from_python",
    "eval_batches": "loading.loader",
    "load_dataset": "load",
    "train_batches": "loading.loader",
    "with_cache": "loading.cache",
}
__all__ = [
    "ArraySource",
    "DataError",
    "Dataset",
    "Examples",
    "UnreadableImage",
    "UnreadablePicture",
    "check_there",
    "dataset_from_arrays",
    "dataset_from_files",
    "eval_batches",
    "load_dataset",
    "train_batches",
    "with_cache",
]
__getattr__ = names_of(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__
