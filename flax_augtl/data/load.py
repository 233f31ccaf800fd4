"""Load the dataset that config.data describes, with its three splits."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_augtl.config.convert import typed_data
from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.errors import DataError
from flax_augtl.data.sources.downloads import is_url, local_path
from flax_augtl.data.sources.fetched_images import fetched
from flax_augtl.data.sources.folder import checked_root, list_folder
from flax_augtl.data.sources.image_files import FileSource, Listing
from flax_augtl.data.sources.list_files import list_files, list_lists
from flax_augtl.data.sources.metadata_files import list_metadata
from flax_augtl.data.sources.unicode_names import Spelling
from flax_augtl.data.splits import folds, groups, stratify
from flax_augtl.data.splits.check_images import check_images, check_settings
from flax_augtl.data.splits.integrity import note
from flax_augtl.data.splits.make_splits import divide
from flax_augtl.data.splits.near_copies import ByScan
from flax_augtl.data.types import Dataset, Examples, Source
from flax_augtl.runtime.paths import is_remote

GLYPHS_PER_CLASS = 100
GLYPHS_TEST_PER_CLASS = 10
DIGIT_SHOTS = 10
# Of 1797 digits. The training examples of each seed are drawn from the rest, 77 to 81 for each class.
DIGITS_TEST = 1000


def check_there(data: DataConfig | Mapping[str, Any]) -> None:
    """Check quickly that the dataset exists where config.data says; `load_dataset` checks everything else.

    Args:
      data: as for `load_dataset`.

    Raises:
      DataError: the dataset does not exist there.
    """
    data = _located(typed_data(data))
    folds.check(data)
    check_settings(data)
    match data.name:
        case "digits" | "glyphs":
            pass
        case "folder":
            checked_root(data.root)
        case "list":
            list_files(data)
        case name:
            from flax_augtl.data.sources.tfds import builder_of, check_prepared

            check_prepared(builder_of(name, data.root), name, data.root)


def load_dataset(data: DataConfig | Mapping[str, Any], *, seed: int, spelling: Spelling | None = None) -> Dataset:
    """Find the examples of a dataset and split them.

    Args:
      data: config.data, or any mapping with some of its fields.
      seed: seed of all choices among examples except the test split, which has `split_seed`.
      spelling: how an earlier run wrote the class names and ids of a folder; see `unicode_names.spelling_of`.

    Raises:
      DataError: the data or their settings are invalid.
    """
    data = _located(typed_data(data))
    folds.check(data)
    check_settings(data)
    dataset = _load(data, seed, spelling)
    return dataclasses.replace(dataset, metric=data.metric) if data.metric else dataset


def _located(data: DataConfig) -> DataConfig:
    """Return config.data with `root` as a path on this machine or in a bucket."""
    root = data.root
    if root and is_url(root) and data.name != "list":
        raise DataError(
            f"config.data.root={root}: a folder on the web cannot be listed. Give a list of the addresses of its "
            "images (config.data.name=list, config.data.train_list), or download it."
        )
    return dataclasses.replace(data, root=local_path(root)) if root and is_remote(root) else data


def _load(data: DataConfig, seed: int, spelling: Spelling | None) -> Dataset:
    match data.name:
        case "digits":
            return _digits(data, seed)
        case "glyphs":
            return _glyphs(data, seed)
        case "folder":
            listing = list_metadata(data) or list_folder(data.root, data.folder_rules, spelling)
            return from_listing(listing, data, seed)
        case "list":
            return from_listing(list_lists(data), data, seed)
    return _tfds(data, seed)


def from_listing(listing: Listing, data: DataConfig, seed: int) -> Dataset:
    """Scan labelled image files, skip or report unreadable ones, and split the rest.

    Args:
      listing: the files.
      data: config.data.
      seed: seed of all choices, as for `load_dataset`.

    Raises:
      DataError: an image cannot be read and config.data.on_bad_image is "error", or `divide` finds an error.
    """
    total = sum(len(paths) for paths, _ in listing.splits.values())
    listing, skipped = fetched(listing, data.on_bad_image)
    order = sorted(listing.splits)
    paths = tuple(path for split in order for path in listing.splits[split][0])
    source = FileSource(listing.root, paths, data.max_pixels)
    checked = check_images(source, data)
    skipped |= {listing.ids.get(paths[i], paths[i]): reason for i, reason in checked.bad.items()}
    parts, first = {}, 0
    for split in order:
        names, labels = listing.splits[split]
        kept = np.array([i for i in range(len(names)) if first + i not in checked.bad], np.int64)
        parts[split] = examples_of(
            source, labels[kept], [listing.ids.get(names[i], names[i]) for i in kept], first + kept
        )
        first += len(names)
    used = [path for i, path in enumerate(paths) if i not in checked.bad]
    found = groups.groups_of(used, listing.columns, data.group)
    return divide(
        listing.root or "The list of files",
        listing.class_names,
        parts,
        data,
        seed,
        notes=(*listing.notes, *((note(skipped, total),) if skipped else ()), *checked.notes),
        skipped=skipped,
        find_copies=ByScan({source: checked.scan}, data.scan_dir) if checked.scan else None,
        groups=found and {listing.ids.get(path, path): group for path, group in found.items()},
    )


def examples_of(
    source: Source, labels: np.ndarray, ids: list[str] | tuple[str, ...], indices: np.ndarray | None = None
) -> Examples:
    """Return examples in the given order; `indices`, int64 [n], are positions in the source, by default 0 … n−1."""
    indices = np.arange(len(labels), dtype=np.int64) if indices is None else np.asarray(indices, np.int64)
    return Examples(source, indices, np.asarray(labels, np.int32), tuple(ids))


def _digits(data: DataConfig, seed: int) -> Dataset:
    from flax_augtl.data.sources import digits

    groups.refuse(data.group, "digits")
    source, labels = digits.digits()
    everything = examples_of(source, labels, [f"digits/{i:04d}" for i in range(len(labels))])
    k = DIGIT_SHOTS if data.shots is None else data.shots
    if data.split_seed is None and not data.folds:  # Earlier versions tested on all other digits.
        train, test = stratify.shots(everything, k, seed, digits.CLASS_NAMES)
        return divide(
            "digits", digits.CLASS_NAMES, {"train": train, "test": test}, dataclasses.replace(data, shots=None), seed
        )
    return divide(
        "digits", digits.CLASS_NAMES, {"all": everything}, dataclasses.replace(data, test=DIGITS_TEST, shots=k), seed
    )


def _glyphs(data: DataConfig, seed: int) -> Dataset:
    from flax_augtl.data.sources import glyphs

    groups.refuse(data.group, "glyphs")
    k = GLYPHS_PER_CLASS if data.shots is None else data.shots
    # All seeds have the same test images, as with any dataset that comes with a test split.
    drawn = {"train": (k, seed), "test": (GLYPHS_TEST_PER_CLASS, 0)}
    parts = {}
    for split, (per_class, key) in drawn.items():
        source, labels = glyphs.glyphs(split, per_class, key)
        parts[split] = examples_of(source, labels, [f"glyphs/{split}/{key}/{i:06d}" for i in range(len(labels))])
    return divide("glyphs", glyphs.CLASS_NAMES, parts, dataclasses.replace(data, shots=None), seed)


def _tfds(data: DataConfig, seed: int) -> Dataset:
    from flax_augtl.data.sources.tfds import prepared

    groups.refuse(data.group, data.name)
    found = prepared(data.name, data.root, data.max_pixels)
    seen, parts, skipped, said = {}, {}, {}, []
    for split, (source, indices, labels) in found.splits.items():
        checked = check_images(source, data, indices)
        if checked.scan:
            seen[source] = checked.scan
        skipped |= {source.path(i): reason for i, reason in checked.bad.items()}
        said += checked.notes
        kept = np.array([i not in checked.bad for i in indices.tolist()], bool)
        ids = [f"{data.name}/{split}/{i:07d}" for i in indices[kept]]
        parts[split] = examples_of(source, labels[kept], ids, indices[kept])
    read = sum(len(indices) for _, indices, _ in found.splits.values())
    return divide(
        data.name,
        found.class_names,
        parts,
        data,
        seed,
        metric=found.metric,
        notes=(*found.notes, *((note(skipped, read),) if skipped else ()), *said),
        skipped=skipped,
        find_copies=ByScan(seen, data.scan_dir) if seen else None,
    )
