"""Labelled pictures: where they come from, how they are split, and how they reach the device."""

from flax_augtl.data.cache import with_cache
from flax_augtl.data.errors import DataError, UnreadablePicture
from flax_augtl.data.examples import ArraySource, Dataset, Examples
from flax_augtl.data.given import dataset_from_arrays, dataset_from_files
from flax_augtl.data.load import load_dataset
from flax_augtl.data.loader import eval_batches, train_batches

__all__ = [
    "ArraySource",
    "DataError",
    "Dataset",
    "Examples",
    "UnreadablePicture",
    "dataset_from_arrays",
    "dataset_from_files",
    "eval_batches",
    "load_dataset",
    "train_batches",
    "with_cache",
]
