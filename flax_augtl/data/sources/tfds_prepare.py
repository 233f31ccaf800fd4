"""Prepare a TFDS dataset on disk; only this module needs TensorFlow."""

import importlib.util
from pathlib import Path
from typing import Any

from flax_augtl.data.errors import DataError
from flax_augtl.data.sources.tfds import builder_of, has_random_access


def prepare(name: str, data_dir: str | None = None) -> str:
    """Download and prepare a TFDS dataset as ArrayRecord, or convert one that is on disk in another format.

    Args:
      name: config.data.name.
      data_dir: folder of the TFDS datasets; None for the default of TFDS.

    Returns:
      A sentence about what was done.

    Raises:
      DataError: there is no such dataset, TensorFlow is missing, or TFDS could not get the data.
    """
    builder = builder_of(name, data_dir)
    if builder.is_prepared() and has_random_access(builder):
        return f"{name} is already prepared under {builder.data_path}."
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"Preparing {name} needs TensorFlow, which is not installed: pip install 'flax_augtl[tfds]'. "
            "Once prepared, data are read without it."
        )
    if builder.is_prepared():
        return _convert(builder, name)
    try:
        builder.download_and_prepare(file_format="array_record")
    except AssertionError as error:  # Files must be downloaded by hand; the message says which.
        raise DataError(f"TFDS cannot get {name} by itself. {str(error).strip()}") from None
    except Exception as error:  # Download, checksum and disk errors have many types.
        raise DataError(f"TFDS could not prepare {name}: {type(error).__name__}: {error}") from error
    splits = ", ".join(f"{split} {info.num_examples}" for split, info in builder.info.splits.items())
    return f"{name} is prepared under {builder.data_path}: {splits}."


def _convert(builder, name: str) -> str:
    """Convert every shard to ArrayRecord, beside the old one; the tool of TFDS for this needs Apache Beam."""
    import tensorflow as tf
    from tensorflow_datasets.core import file_adapters

    array_record = file_adapters.FileFormat.ARRAY_RECORD
    adapters: Any = file_adapters.ADAPTER_FOR_FORMAT  # Annotated for less than they accept.
    old = builder.info.file_format
    for split in builder.info.splits.values():
        for shard in map(Path, split.filepaths):
            new = shard.with_name(shard.name.replace(f".{old.file_suffix}-", f".{array_record.file_suffix}-"))
            unfinished = new.with_name(f"{new.name}.unfinished")
            records = adapters[old].make_tf_data(tf.constant(str(shard)), buffer_size=None).as_numpy_iterator()
            adapters[array_record].write_examples(unfinished, enumerate(records))
            unfinished.rename(new)
    # Recorded last, so that an interrupted conversion starts again.
    builder.info.add_alternative_file_format(array_record)
    builder.info.write_to_directory(builder.data_path)
    return f"{name} under {builder.data_path} is converted to ArrayRecord; the old files are still there."
