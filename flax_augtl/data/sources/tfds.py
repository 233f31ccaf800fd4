"""Open a prepared TFDS dataset by name, or raise an error that says how to prepare it."""

import contextlib
import io
import shlex
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from flax_augtl.data.errors import DataError
from flax_augtl.data.images.decode import MAX_PIXELS
from flax_augtl.data.sources.tfds_errors import problem
from flax_augtl.data.sources.tfds_presets import PRESETS, Preset
from flax_augtl.data.sources.tfds_records import TfdsSource, image_and_label
from flax_augtl.runtime.literal_glob import take_folders_literally

# TFDS finds files by patterns, which fail if data_dir has brackets in its name.
take_folders_literally()


class Prepared(NamedTuple):
    """A prepared dataset.

    Attributes:
      splits: {"train" | "val" | "test" | "all": (source, positions of the records int64, labels int32)}.
      class_names: the name of each class.
      metric: see `Preset`.
      notes: sentences for the log.
    """

    splits: dict[str, tuple[TfdsSource, np.ndarray, np.ndarray]]
    class_names: tuple[str, ...]
    metric: str
    notes: tuple[str, ...]


def prepared(name: str, data_dir: str | None, max_pixels: int = MAX_PIXELS) -> Prepared:
    """Open a TFDS dataset that is on disk.

    Args:
      name: name in TFDS, with a config and version if needed: "sun397/standard-part2-120k:4.0.0".
      data_dir: folder of the TFDS datasets; None for the default of TFDS.
      max_pixels: images with more pixels are refused.

    Raises:
      DataError: there is no such dataset, it is not prepared or has no random access, or its images do not have one
        class each.
    """
    builder = builder_of(name, data_dir)
    check_prepared(builder, name, data_dir)
    plain = name.split("/")[0].split(":")[0]
    preset = PRESETS.get(plain) or _preset_of(builder)
    features: Any = builder.info.features  # TFDS's annotation is too general to be subscripted.
    names = tuple(features[image_and_label(builder)[1]].names)
    keep = np.array([class_name not in preset.leaves_out for class_name in names])
    renumbered = np.cumsum(keep, dtype=np.int32) - 1
    splits = {}
    wanted = {"train": preset.train, "val": preset.val, "test": preset.test}
    for split, theirs in ({"all": preset.train} if preset.test is None else wanted).items():
        if theirs is not None:
            source = TfdsSource(builder, theirs, max_pixels)
            here = np.flatnonzero(keep[source.labels])
            splits[split] = (source, here, renumbered[source.labels[here]])
    class_names = tuple(class_name for class_name, kept in zip(names, keep, strict=True) if kept)
    return Prepared(splits, class_names, preset.metric, (preset.note,) if preset.note else ())


def builder_of(name: str, data_dir: str | None):
    """Return the TFDS builder of a name, with the config of its preset.

    Raises:
      DataError: there is no such dataset, its code does not run here, or its images do not have one class each.
    """
    import tensorflow_datasets as tfds

    plain = name.split("/")[0].split(":")[0]
    if plain in PRESETS and PRESETS[plain].config and "/" not in name:
        name = name.replace(plain, f"{plain}/{PRESETS[plain].config}", 1)
    data_dir = _expanded(data_dir)
    try:
        # Without TensorFlow, TFDS prints a banner.
        with contextlib.redirect_stdout(io.StringIO()):
            builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # The code of each dataset may raise anything.
        builder = _from_files(name, data_dir)
        if builder is None:
            raise problem(name, error) from None
    image_and_label(builder)
    # A builder made from code does not see files that were converted to another format.
    return tfds.builder_from_directory(builder.data_path) if builder.is_prepared() else builder


def _from_files(name: str, data_dir: str | None):
    """Return the builder of a prepared dataset whose code does not run here; None if it is not on disk."""
    from tensorflow_datasets.core import naming, read_only_builder

    try:
        plain, fields = naming.parse_builder_name_kwargs(name, data_dir=data_dir)
        return read_only_builder.builder_from_files(str(plain), **fields)
    except Exception:  # The caller reports why the code did not run.
        return None


def check_prepared(builder, name: str, data_dir: str | None) -> None:
    """Check that a dataset is on disk and has random access.

    Raises:
      DataError: it is not, or has not; the message has the command that helps.
    """
    if not builder.is_prepared():
        raise DataError(
            f"The TFDS dataset {name} is not prepared under {builder.data_path}. Prepare it once, which needs the "
            f"extra `tfds` (TensorFlow) and may download it: {prepare_command(name, data_dir)}"
        )
    if not has_random_access(builder):
        formats = builder.info.available_file_formats()
        raise DataError(
            f"The TFDS dataset {name} under {builder.data_path} is prepared as "
            f"{', '.join(sorted(f.value for f in formats))}, which cannot be read at random. Convert it, which needs "
            f"the extra `tfds` (TensorFlow) and downloads nothing: {prepare_command(name, data_dir)}"
        )


def has_random_access(builder) -> bool:
    """Tell whether a prepared dataset exists in a format with random access."""
    from tensorflow_datasets.core.file_adapters import FileFormat

    return bool(builder.info.available_file_formats() & set(FileFormat.with_random_access()))


def prepare_command(name: str, data_dir: str | None) -> str:
    """Return the command that prepares a dataset."""
    return f"python -m flax_augtl.data prepare {shlex.quote(name)}" + (
        f" --data_dir={shlex.quote(str(data_dir))}" if data_dir else ""
    )


def _preset_of(builder) -> Preset:
    """Return a preset for a dataset without one, by the names of its splits."""
    splits = set(builder.info.splits)
    train = next((s for s in ("train", "training") if s in splits), None)
    if train is None:
        raise DataError(f"The TFDS dataset {builder.name} has no training split; it has {', '.join(sorted(splits))}.")
    val = next((s for s in ("validation", "val", "valid", "dev") if s in splits), None)
    if "test" in splits:
        return Preset(train=train, val=val, test="test")
    if val:
        return Preset(
            train=train,
            test=val,
            note=(
                f"{builder.name} has train and {val} only: {val} is used as the test split, and the validation split "
                "is taken from train."
            ),
        )
    return Preset(
        train=train, test=None, note=f"{builder.name} has no test split: a part of the images is set aside as one."
    )


def _expanded(data_dir: str | None) -> str | None:
    return str(epath.Path(data_dir).expanduser()) if data_dir else None
