"""config.data → a data set with its three splits."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_augtl.data import splits
from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.examples import Dataset, Examples, Source
from flax_augtl.data.files import FileSource
from flax_augtl.data.folder import Listing, list_folder
from flax_augtl.data.scan import note, scan

# What a field of config.data is if it is not there: for the Python API; main.py's configs have them all.
DEFAULTS: dict[str, Any] = {
    "name": "folder",
    "root": None,
    "shots": None,
    "rate": 1.0,
    "validation": 0.2,
    "test": 0.2,
    "on_bad_image": "error",
    "max_pixels": 256 * 1024 * 1024,
}
GLYPHS_PER_CLASS = 100
GLYPHS_TEST_PER_CLASS = 10
DIGIT_SHOTS = 10


def load_dataset(data: Mapping[str, Any], *, seed: int) -> Dataset:
    """Find the examples of a data set and split them.

    Args:
        data: config.data, or any mapping with some of its fields.
        seed: governs every choice among examples.

    Raises:
        DataError: whatever is wrong, as a sentence.
    """
    data = {**DEFAULTS, **dict(data)}
    if data["name"] == "digits":
        return _digits(data, seed)
    if data["name"] == "glyphs":
        return _glyphs(data, seed)
    if data["name"] == "folder":
        return _from_files(list_folder(data["root"]), data, seed)
    return _tfds(data, seed)


def split_dataset(
    name: str,
    class_names: tuple[str, ...],
    parts: dict[str, Examples],
    data: Mapping[str, Any],
    seed: int,
    *,
    metric: str = "top1",
    notes: tuple[str, ...] = (),
    skipped: dict[str, str] | None = None,
) -> Dataset:
    """Make train, validation and test out of the parts that a data set comes with.

    Args:
        parts: {"train", "test" and perhaps "val"}, or {"all"} alone.
    """
    if "all" in parts:
        rest, test = splits.carve(parts["all"], data["test"], seed, class_names, what="test")
        if test is None:
            raise DataError(
                f"{name} has no test split, and config.data.test=0 makes none. Set it to a share such as 0.2."
            )
        parts = {"train": rest, "test": test}
        notes = (*notes, f"{len(test)} of {len(test) + len(rest)} examples were set aside as the test split, by seed.")
    train, val, test = parts["train"], parts.get("val"), parts["test"]
    _check_classes(name, class_names, train, {"val": val, "test": test})
    train = splits.sample(train, data["rate"], seed, class_names)
    if data["shots"] is not None:
        train, _ = splits.shots(train, int(data["shots"]), seed, class_names)
    if val is None:
        train, val = splits.carve(train, data["validation"], seed, class_names)
    return Dataset(name, class_names, train, val, test, metric, notes, skipped=skipped or {})


def examples_of(
    source: Source, labels: np.ndarray, ids: list[str] | tuple[str, ...], indices: np.ndarray | None = None
) -> Examples:
    """Examples in the order given; `indices` int64 [n] are their positions in the source, default 0 … n−1."""
    indices = np.arange(len(labels), dtype=np.int64) if indices is None else np.asarray(indices, np.int64)
    return Examples(source, indices, np.asarray(labels, np.int32), tuple(ids))


def _from_files(listing: Listing, data: Mapping[str, Any], seed: int) -> Dataset:
    order = sorted(listing.splits)
    source = FileSource(
        listing.root, tuple(path for split in order for path in listing.splits[split][0]), data["max_pixels"]
    )
    bad = scan(source, data["on_bad_image"])
    parts, first = {}, 0
    for split in order:
        paths, labels = listing.splits[split]
        kept = np.array([i for i in range(len(paths)) if first + i not in bad], np.int64)
        parts[split] = examples_of(source, labels[kept], [paths[i] for i in kept], first + kept)
        first += len(paths)
    notes = (*listing.notes, *((note(source, bad),) if bad else ()))
    skipped = {source.paths[i]: reason for i, reason in bad.items()}
    return split_dataset(listing.root, listing.class_names, parts, data, seed, notes=notes, skipped=skipped)


def _digits(data: Mapping[str, Any], seed: int) -> Dataset:
    from flax_augtl.data import digits

    source, labels = digits.digits()
    everything = examples_of(source, labels, [f"digits/{i:04d}" for i in range(len(labels))])
    k = DIGIT_SHOTS if data["shots"] is None else int(data["shots"])
    train, test = splits.shots(everything, k, seed, digits.CLASS_NAMES)
    return split_dataset("digits", digits.CLASS_NAMES, {"train": train, "test": test}, {**data, "shots": None}, seed)


def _glyphs(data: Mapping[str, Any], seed: int) -> Dataset:
    from flax_augtl.data import glyphs

    k = GLYPHS_PER_CLASS if data["shots"] is None else int(data["shots"])
    # The test pictures are the same for every seed, as with any data set that has a test split.
    drawn = {"train": glyphs.glyphs("train", k, seed), "test": glyphs.glyphs("test", GLYPHS_TEST_PER_CLASS, 0)}
    parts = {
        split: examples_of(
            source, labels, [f"glyphs/{split}/{seed if split == 'train' else 0}/{i:06d}" for i in range(len(labels))]
        )
        for split, (source, labels) in drawn.items()
    }
    return split_dataset("glyphs", glyphs.CLASS_NAMES, parts, {**data, "shots": None}, seed)


def _tfds(data: Mapping[str, Any], seed: int) -> Dataset:
    from flax_augtl.data.tfds_data import prepared

    found = prepared(data["name"], data["root"], data["max_pixels"])
    parts = {
        split: examples_of(source, labels, [f"{data['name']}/{split}/{i:07d}" for i in indices], indices)
        for split, (source, indices, labels) in found.splits.items()
    }
    return split_dataset(data["name"], found.class_names, parts, data, seed, metric=found.metric, notes=found.notes)


def _check_classes(
    name: str, class_names: tuple[str, ...], train: Examples, others: dict[str, Examples | None]
) -> None:
    """Every split has examples, and none of a class that nothing was learned of."""
    known = np.bincount(train.labels, minlength=len(class_names)) > 0
    if known.sum() < 2:
        raise DataError(f"The training split of {name} has {known.sum()} classes; there must be two at least.")
    for split, examples in others.items():
        if examples is None:
            continue
        if not len(examples):
            raise DataError(f"The {split} split of {name} has no examples.")
        strange = np.flatnonzero(~known & (np.bincount(examples.labels, minlength=len(class_names)) > 0))
        if len(strange):
            raise DataError(
                f"These classes of {name} are in the {split} split only, so nothing can be learned of them: "
                f"{listed(class_names[c] for c in strange)}. Add training pictures of them, or remove them."
            )
