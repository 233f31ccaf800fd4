"""Read `metadata.csv` and `metadata.jsonl` beside images, the format of Hugging Face's imagefolder."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import PurePosixPath

from etils import epath

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.sources.folder_tree import image_paths
from flax_augtl.data.sources.image_files import Listing
from flax_augtl.data.sources.list_columns import Row, rows_of
from flax_augtl.data.sources.list_files import from_rows
from flax_augtl.data.sources.list_paths import ListedFiles
from flax_augtl.data.sources.list_tables import read_table
from flax_augtl.data.sources.list_words import SPLIT_VALUES, compact, is_label_word
from flax_augtl.runtime.paths import is_remote, nfc

_NAMES = ("metadata.csv", "metadata.jsonl")


def list_metadata(data: DataConfig) -> Listing | None:
    """Read the metadata files in a folder, or in the folders of its splits.

    Returns:
      The images that they list; None if there is no such file, or if its labels are the same as the class folders.

    Raises:
      DataError: the labels contradict the class folders, or the file is invalid as a list.
    """
    if not data.root or is_remote(data.root) or data.folder_rules < 2:
        return None
    root = epath.Path(data.root).expanduser()
    files = _files(root)
    rows: dict[str, list[Row]] = {}
    for part, file in files.items():
        for row in _rows(file, root, part, data):
            split = row.split or SPLIT_VALUES.get(compact(row.path.split("/")[0]), "all")
            rows.setdefault(split, []).append(row)
    if not rows:
        return None
    if "all" in rows and len(rows) > 1:
        row = rows["all"][0]
        raise DataError(
            f"{row.path} of the metadata files below {root} is in no folder of a split, where other images are."
        )
    if not data.label_column and _same_as_folders(rows, root):
        return None
    if "all" not in rows and "train" not in rows:
        raise DataError(f"The metadata files below {root} have no training images, only {', '.join(sorted(rows))}.")
    names = " and ".join(os.fspath(file) for file in files.values())
    listing = from_rows(rows, str(root), (f"The classes are those of {names}.",))
    return dataclasses.replace(listing, notes=(*listing.notes, *_left_out(listing, root, names)))


def _left_out(listing: Listing, root: epath.Path, names: str) -> list[str]:
    """Return a sentence about images below the root that the metadata do not list; none if they list all."""
    listed_paths = {nfc(path) for paths, _ in listing.splits.values() for path in paths}
    others = [path for path in image_paths(root) if nfc(path) not in listed_paths]
    if not others:
        return []
    return [f"{len(others)} images below {root} are left out, because {names} has no label for them: {listed(others)}."]


def _files(root: epath.Path) -> dict[str, epath.Path]:
    """Return {"" or the folder of a split: its metadata file}."""
    found = {}
    parts = [""]
    if root.is_dir():
        parts += sorted(e.name for e in os.scandir(root) if compact(e.name) in SPLIT_VALUES and e.is_dir())
    for part in parts:
        there = [root / part / name for name in _NAMES if (root / part / name).is_file()]
        if len(there) > 1:
            raise DataError(f"{root / part} has {' and '.join(_NAMES)}. Keep one.")
        if there:
            found[part] = there[0]
    return found


def _rows(file: epath.Path, root: epath.Path, part: str, data: DataConfig) -> list[Row]:
    """Return the rows of a metadata file, with paths below the root; none if it does not list images and labels."""
    here = ListedFiles(os.fspath(root / part) if part else os.fspath(root))
    table = read_table(file, here.is_there)
    heading = table.heading or (table.rows[0][1] if table.rows else ())
    paths = [name for name in heading if compact(name).endswith("filename")]
    if not paths or not (data.label_column or any(map(is_label_word, heading))):
        return []  # Another file with that name, or one of captions; the folders are the classes.
    column = paths[0] if data.path_column is None else data.path_column
    with_path = dataclasses.replace(data, path_column=column)
    rows = rows_of(table, os.fspath(file), with_path, here.is_there)
    prefix = f"{part}/" if part else ""
    return [dataclasses.replace(row, path=prefix + row.path.replace("\\", "/").removeprefix("./")) for row in rows]


def _same_as_folders(rows: Mapping[str, list[Row]], root: epath.Path) -> bool:
    """Tell whether the class folders divide the images like the labels.

    Raises:
      DataError: they are almost the same, but not quite.
    """
    pairs = set()
    for row in (row for some in rows.values() for row in some):
        parts = PurePosixPath(row.path).parts
        parts = parts[1:] if compact(parts[0]) in SPLIT_VALUES else parts
        if len(parts) < 2:
            return False
        pairs.add((parts[0], row.label))
    folders, labels = {folder for folder, _ in pairs}, {label for _, label in pairs}
    if len(folders) < 2:
        return False
    if len(pairs) == len(folders) == len(labels):
        return True
    if len(folders) == len(labels) and len(pairs) < 2 * len(labels):  # Almost the same, which must be an error.
        raise DataError(
            f"The metadata files below {root} contradict the class folders: for instance "
            f"{_disagreement(pairs)}. To use the metadata, set config.data.label_column to its column of labels. To "
            "use the folders, rename the metadata files."
        )
    return False


def _disagreement(pairs: set[tuple[str, str]]) -> str:
    folders = [folder for folder, _ in sorted(pairs)]
    twice = next(folder for folder in folders if folders.count(folder) > 1)
    return f"{twice} has images labelled " + " and ".join(
        sorted(label for folder, label in pairs if folder == twice)[:3]
    )
