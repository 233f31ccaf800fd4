"""A TFDS dataset by name → its prepared splits, or a sentence that says how to get them."""

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

# TFDS looks for the files of a dataset by patterns below its data_dir.
take_folders_literally()


class Prepared(NamedTuple):
    """A prepared dataset: {"train" | "val" | "test" | "all": (source, which of its records int64, labels int32)}."""

    splits: dict[str, tuple[TfdsSource, np.ndarray, np.ndarray]]
    class_names: tuple[str, ...]
    metric: str
    notes: tuple[str, ...]


def prepared(name: str, data_dir: str | None, max_pixels: int = MAX_PIXELS) -> Prepared:
    """Open a TFDS dataset that is on disk.

    Args:
        name: as in TFDS, with a config and version if wanted: "sun397/standard-part2-120k:4.0.0".
        data_dir: where TFDS datasets are; None for TFDS's own default.
        max_pixels: larger images are refused.

    Raises:
        DataError: no such dataset, not prepared, prepared without random access, or not images with one class each.
    """
    builder = builder_of(name, data_dir)
    check_prepared(builder, name, data_dir)
    plain = name.split("/")[0].split(":")[0]
    preset = PRESETS.get(plain) or _preset_of(builder)
    features: Any = builder.info.features  # TFDS's annotation does not know that they are by name.
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
    """The TFDS builder of a name, the preset's config chosen.

    Raises:
        DataError: there is no such dataset, its code does not run here, or it is not one of images with one class each.
    """
    import tensorflow_datasets as tfds

    plain = name.split("/")[0].split(":")[0]
    if plain in PRESETS and PRESETS[plain].config and "/" not in name:
        name = name.replace(plain, f"{plain}/{PRESETS[plain].config}", 1)
    data_dir = _expanded(data_dir)
    try:
        # Where TensorFlow is missing, TFDS prints a banner about it.
        with contextlib.redirect_stdout(io.StringIO()):
            builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # Of many kinds: the code of each dataset imports and reads what it likes.
        builder = _from_files(name, data_dir)
        if builder is None:
            raise problem(name, error) from None
    image_and_label(builder)
    # A builder made from code does not see that what is on disk has been converted to a second format.
    return tfds.builder_from_directory(builder.data_path) if builder.is_prepared() else builder


def _from_files(name: str, data_dir: str | None):
    """The builder of a prepared dataset whose code does not run here; None if it is not on disk."""
    from tensorflow_datasets.core import naming, read_only_builder

    try:
        plain, fields = naming.parse_builder_name_kwargs(name, data_dir=data_dir)
        return read_only_builder.builder_from_files(str(plain), **fields)
    except Exception:  # The reason is the one why the code did not run.
        return None


def check_prepared(builder, name: str, data_dir: str | None) -> None:
    """Raise `DataError`, with the command that helps, unless the dataset is on disk and has random access."""
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
    """Whether a prepared dataset is there in a format that can be read at random."""
    from tensorflow_datasets.core.file_adapters import FileFormat

    return bool(builder.info.available_file_formats() & set(FileFormat.with_random_access()))


def prepare_command(name: str, data_dir: str | None) -> str:
    """What to type to prepare a dataset."""
    return f"python -m flax_augtl.data prepare {shlex.quote(name)}" + (
        f" --data_dir={shlex.quote(str(data_dir))}" if data_dir else ""
    )


def _preset_of(builder) -> Preset:
    """Splits of a dataset that is in no table, by their names."""
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
                f"{builder.name} has train and {val} only: {val} is used as the test split, and the validation split is "
                "taken from train."
            ),
        )
    return Preset(
        train=train, test=None, note=f"{builder.name} has no test split: a part of the images is set aside as one."
    )


def _expanded(data_dir: str | None) -> str | None:
    return str(epath.Path(data_dir).expanduser()) if data_dir else None
