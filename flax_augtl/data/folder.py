"""A folder of pictures with a sub-folder a class, split into `train/`, `val/`, `test/` or not at all."""

import dataclasses
import re

import numpy as np
from etils import epath

from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.files import Listing, folders, picture_paths

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def checked_root(root: epath.PathLike | None) -> epath.Path:
    """Return the folder of pictures that config.data.root names.

    Raises:
        DataError: there is none.
    """
    if not root:
        raise DataError("config.data.root is not set: give the folder of pictures, --config.data.root=FOLDER.")
    root = epath.Path(root).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"The data root {root} {what}. Give a folder with a sub-folder of pictures for each class.")
    return root


def list_folder(root: epath.PathLike | None) -> Listing:
    """Find the splits, classes and pictures below a root.

    The root is split if it has a folder `train/` (or `training/`) that holds folders and no pictures of its own. With
    train and val only, val is the test split: that is how most small sets are published, and a validation split is then
    carved from train. A picture's class is the first folder on its path; below it pictures may be nested.

    Raises:
        DataError: no such folder, no picture, or one class only.
    """
    root = checked_root(root)
    tops = folders(root)
    parts: dict[str, str] = {}
    for name in tops:
        split = _split_of(name)
        if split and split in parts.values():
            twice = listed(n for n in tops if _split_of(n) == split)
            raise DataError(f"{root} has more than one folder for the {split} split: {twice}. Keep one.")
        if split:
            parts[name] = split
    if "train" in parts.values() and _holds_classes(root, parts):
        return _listing(root, parts, [name for name in tops if name not in parts])
    own = [top for top in tops if any("/" not in path for path in picture_paths(root / top)[0])]
    if parts and len(parts) == len(tops) and not own:
        raise DataError(
            f"{root} has {listed(tops)} and no folder train/: there is nothing to train on. Call the folder of the training "
            "pictures train, or give the one that is to be split as config.data.root."
        )
    listing = _listing(root, {"": "all"}, [])
    return dataclasses.replace(listing, notes=listing.notes + _same_inside(root, tops))


def _split_of(name: str) -> str | None:
    """Return the split that a folder is by its name, such as train, Training or test_set; None for others."""
    return _SPLITS.get(re.sub(r"[_-]?set$", "", name.lower()))


def _same_inside(root: epath.Path, tops: list[str]) -> tuple[str, ...]:
    """Return a note where the folders that are taken for classes look like splits, for all hold the same folders."""
    inside = [tuple(folders(root / top)) for top in tops]
    if len(tops) < 2 or len(inside[0]) < 2 or len(set(inside)) > 1:
        return ()
    return (
        f"The classes are the folders {listed(tops)} of {root}, each of which holds {listed(inside[0])}. If those are the "
        "classes, call the folders above them train, val and test.",
    )


def _holds_classes(root: epath.Path, parts: dict[str, str]) -> bool:
    """False for a class that happens to be called "train", beside "car" and "bus"."""
    train = root / next(name for name, split in parts.items() if split == "train")
    return bool(folders(train)) and not any("/" not in path for path in picture_paths(train)[0])


def _listing(root: epath.Path, parts: dict[str, str], aside: list[str]) -> Listing:
    notes = []
    found: dict[str, dict[str, list[str]]] = {}  # split → class → paths
    others, loose, empty = [], [], set()
    for part, split in parts.items():
        pictures, rest = picture_paths(root / part)
        prefix = f"{part}/" if part else ""
        others += [prefix + path for path in rest]
        loose += [prefix + path for path in pictures if "/" not in path]
        classes: dict[str, list[str]] = {}
        for path in pictures:
            if "/" in path:
                classes.setdefault(path.split("/", 1)[0], []).append(prefix + path)
        empty |= {prefix + name for name in folders(root / part) if name not in classes}
        found[split] = classes
    if not any(found.values()):
        raise DataError(_nothing(root, others, loose))
    if len(found) == 1 and "train" in found:
        found = {"all": found["train"]}  # train/ alone is one root that is split.
    elif "test" not in found and "val" in found:
        found["test"] = found.pop("val")
        notes.append(
            f"{root} has train and val only: val is the test split here, looked at once, and the validation split is "
            "carved from train."
        )
    if aside:
        notes.append(f"These folders beside the splits of {root} are not used: {listed(aside)}.")
    if loose:
        notes.append(f"{len(loose)} pictures under {root} lie in no class folder and are not used: {listed(loose, 3)}.")
    if others:
        notes.append(
            f"{len(others)} files under {root} are no pictures by their ending and are not used: {listed(others, 3)}."
        )
    if empty:
        notes.append(f"These folders under {root} hold no picture: {listed(sorted(empty))}.")
    return _number(root, found, tuple(notes))


def _number(root: epath.Path, found: dict[str, dict[str, list[str]]], notes: tuple[str, ...]) -> Listing:
    names = tuple(sorted(set().union(*found.values())))
    if len(names) < 2:
        raise DataError(
            f"{root} has one class only, {names[0]}: there is nothing to tell it from. "
            "Each class needs its own sub-folder, and there must be two at least."
        )
    number = {name: label for label, name in enumerate(names)}
    splits = {}
    for split, classes in found.items():
        pairs = sorted((path, number[name]) for name, paths in classes.items() for path in paths)
        splits[split] = (tuple(path for path, _ in pairs), np.array([label for _, label in pairs], np.int32))
    return Listing(str(root), names, splits, notes)


def _nothing(root: epath.Path, others: list[str], loose: list[str]) -> str:
    if loose:
        return (
            f"The {len(loose)} pictures of {root} lie in no class folder (the first is {loose[0]}). "
            "Put the pictures of each class into a sub-folder that has the name of the class."
        )
    seen = f" It has {len(others)} other files, among them {listed(others, 3)}." if others else " It is empty."
    return f"There are no pictures in {root}.{seen} Pictures are files that end in .jpg, .png, .gif, .webp and the like."
