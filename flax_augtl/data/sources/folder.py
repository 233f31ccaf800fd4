"""List a folder of images with a sub-folder for each class, with or without `train/`, `val/` and `test/`."""

import dataclasses
import os
from collections.abc import Iterable

import numpy as np
from etils import epath

from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.sources.folder_layout import Layout, Place, find_layout, is_unlabelled, unwrapped_split
from flax_augtl.data.sources.folder_tree import RULES, Folder, read_tree
from flax_augtl.data.sources.image_files import Listing
from flax_augtl.data.sources.unicode_names import Spelling, ids_of, look_alike_note
from flax_augtl.runtime.paths import Finder
from flax_augtl.runtime.text import readable


def checked_root(root: epath.PathLike | None) -> epath.Path:
    """Return the folder of images that config.data.root names.

    Raises:
      DataError: the root is not set, or not a folder.
    """
    if not root:
        raise DataError("config.data.root is not set: give the folder of images, --config.data.root=FOLDER.")
    root = epath.Path(Finder()(epath.Path(root).expanduser()))
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"The data root {root} {what}. Give a folder with a sub-folder of images for each class.")
    return root


def list_folder(
    root: epath.PathLike | None, rules: int = RULES, spelling: Spelling | None = None, *, least_classes: int = 2
) -> Listing:
    """Find the splits, classes and images below a root; see `folder_layout.find_layout` and docs/data.md.

    If there are only train and val, val becomes the test split, as most small datasets are published like that. A split
    other than train without class folders is left out. The class of an image is the folder below its split. Images may
    be nested deeper.

    Args:
      root: the folder.
      rules: config.data.folder_rules.
      spelling: spelling of class names and ids; by default NFC, or that of the disk under rules 1.
      least_classes: smallest number of classes.

    Raises:
      DataError: there is no such folder, no image or too few classes, or links put a file into two classes.
    """
    root = checked_root(root)
    spelling = spelling or Spelling("NFC" if rules > 1 else None)
    tree = read_tree(root, rules)
    layout = find_layout(os.fspath(root), tree, rules)
    found = _Found(os.fspath(root), spelling, rules, list(layout.notes), least_classes)
    for split, name, place in layout.classes:
        found.add_class(split, name, place)
    for split, place in sorted(layout.splits, key=lambda part: part[0] != "train"):
        found.add_split(split, place)
    return found.listing(layout)


@dataclasses.dataclass
class _Found:
    """The images found below a root, by split and class: (path, inode)."""

    root: str
    spelling: Spelling
    rules: int
    notes: list[str]
    least_classes: int = 2
    splits: dict[str, dict[str, list[tuple[str, int]]]] = dataclasses.field(default_factory=dict)
    others: list[str] = dataclasses.field(default_factory=list)
    loose: list[str] = dataclasses.field(default_factory=list)
    empty: list[str] = dataclasses.field(default_factory=list)
    owners: dict[int, tuple[str, str]] = dataclasses.field(default_factory=dict)  # {id of a folder: (class, path)}.

    def add_split(self, split: str, place: Place) -> None:
        """Add the sub-folders of a folder as the classes of a split."""
        known = frozenset(self.splits.get("train", ()))
        if self.rules > 1 and split != "all":
            place = unwrapped_split(place, self.root, self.notes, known)
            if is_unlabelled(place, known) and split == "train":
                place = (
                    place if place.folder.images else place.with_images()[0]
                )  # Without classes there is nothing to train on.
            elif is_unlabelled(place, known):
                images = sum(len(folder.images) for _, folder in place.folder.walk(above=place.above))
                where = self._named(place.path)
                self.notes.append(
                    f"The {images} images of {where} lie in no class folder: without labels they can be predicted "
                    f"(--mode=predict --images={where}), but not be used as the {split} split."
                )
                return
        prefix = f"{place.path}/" if place.path else ""
        self.loose += [prefix + name for name in place.folder.images]
        self.others += [prefix + name for name in place.folder.others]
        self.splits.setdefault(split, {})
        seen: list[Folder] = []
        for name in place.folder.folders:
            seen += self.add_class(split, name, place.inside(name), tuple(seen) if self.rules < 2 else ())

    def add_class(self, split: str, name: str, place: Place, passed: tuple[Folder, ...] = ()) -> list[Folder]:
        """Add all images in and below a folder to a class; return the folders that were seen."""
        name, images, seen = self.spelling(name), [], []
        for prefix, folder in place.folder.walk(f"{place.path}/", (*place.above, *passed)):
            seen.append(folder)
            self.others += [prefix + other for other in folder.others]
            images += [(prefix + image, inode) for image, inode in zip(folder.images, folder.inodes, strict=True)]
            owner = self.owners.setdefault(id(folder), (name, prefix)) if folder.images else (name, prefix)
            if owner[0] != name and self.rules > 1:
                raise self._in_two_classes("folder", (owner, (name, prefix)))
        if images:
            self.splits.setdefault(split, {}).setdefault(name, []).extend(images)
        else:
            self.empty.append(place.path)
        return seen

    def listing(self, layout: Layout) -> Listing:
        """Return all images, with notes for the log.

        Raises:
          DataError: there is no image or too few classes, or a file is in two classes.
        """
        found, notes = dict(self.splits), self.notes
        if not any(found.values()):
            raise DataError(self._nothing())
        if self.rules > 1:
            self._check_files()
        if set(found) == {"train"}:
            found = {"all": found["train"]}  # train/ alone is still to be split.
        elif "test" not in found and "val" in found:
            found["test"] = found.pop("val")
            notes.append(
                f"{self._named()} has train and val only: val is used as the test split, and the validation split is "
                "taken from train."
            )
        if layout.aside:
            notes.append(f"These folders beside the splits of {self._named()} are not used: {_listed(layout.aside)}.")
        if self.loose:
            notes.append(
                f"{len(self.loose)} images under {self._named()} lie in no class folder and are not used: "
                f"{_listed(self.loose, 3)}."
            )
        if self.others:
            notes.append(
                f"{len(self.others)} files under {self._named()} are no images by their ending or content and are "
                f"not used: {_listed(sorted(self.others), 3)}."
            )
        if self.empty:
            notes.append(f"These folders under {self._named()} hold no image: {_listed(sorted(self.empty))}.")
        return self._numbered(found)

    def _numbered(self, found: dict[str, dict[str, list[tuple[str, int]]]]) -> Listing:
        names = tuple(sorted(set().union(*found.values())))
        if len(names) < self.least_classes:
            raise DataError(
                f"{self._named()} has only one class, {names[0]}. Each class needs its own sub-folder, and there must "
                "be at least two."
            )
        if note := look_alike_note(names):
            self.notes.append(note)
        images = [image for classes in found.values() for some in classes.values() for image in some]
        ids = ids_of((path for path, _ in images), self.spelling)
        number = {name: label for label, name in enumerate(names)}
        splits = {}
        for split, classes in found.items():
            rows = sorted((ids[path], path, number[name]) for name, images in classes.items() for path, _ in images)
            splits[split] = (tuple(path for _, path, _ in rows), np.array([label for *_, label in rows], np.int32))
        others = {path: name for path, name in ids.items() if path != name}
        return Listing(self.root, names, splits, tuple(self.notes), others)

    def _check_files(self) -> None:
        """Raise DataError if a file is in two classes, by a link or under two names."""
        rows = [(inode, path, name) for classes in self.splits.values() for name, images in classes.items()
                for path, inode in images]  # fmt: skip
        inodes = np.array([inode for inode, _, _ in rows], np.uint64)
        order = np.argsort(inodes, kind="stable")
        inodes = inodes[order]
        for i in np.flatnonzero((inodes[1:] == inodes[:-1]) & (inodes[1:] > 0)):
            (_, one, name), (_, other, other_name) = rows[order[i]], rows[order[i + 1]]
            if name != other_name and self._same(one, other):
                raise self._in_two_classes("file", ((name, one), (other_name, other)))

    def _same(self, one: str, other: str) -> bool:
        one, other = os.path.join(self.root, one), os.path.join(self.root, other)
        try:
            # File systems without inodes may invent equal numbers, so compare only files with several links.
            if os.path.realpath(one) == os.path.realpath(other):
                return True
            return os.stat(one).st_nlink > 1 and os.path.samefile(one, other)
        except OSError:
            return False

    def _in_two_classes(self, what: str, places: Iterable[tuple[str, str]]) -> DataError:
        (name, path), (other_name, other) = places
        return DataError(
            f"A {what} under {self._named()} is in two classes, {readable(name)} and {readable(other_name)}: "
            f"{readable(path.rstrip('/'))} and {readable(other.rstrip('/'))} lead to the same {what}. An image has "
            "one class: remove one of the two links."
        )

    def _named(self, path: str = "") -> str:
        return readable(f"{self.root.rstrip('/')}/{path}" if path else self.root)

    def _nothing(self) -> str:
        if self.loose:
            return (
                f"The {len(self.loose)} images of {self._named()} lie in no class folder (the first is "
                f"{readable(self.loose[0])}). Put the images of each class into a sub-folder that has the name of the "
                "class."
            )
        others = sorted(self.others)
        seen = f" It has {len(others)} other files, among them {_listed(others, 3)}." if others else " It is empty."
        return (
            f"There are no images in {self._named()}.{seen} Images are files that end in .jpg, .png, .gif, .webp "
            "and the like, or files without an ending whose content is an image."
        )


def _listed(paths: Iterable[str], limit: int = 10) -> str:
    return listed(map(readable, paths), limit)
