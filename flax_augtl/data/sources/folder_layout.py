"""Find the layout of a folder of images: which sub-folders are splits, classes, or mere wrappers."""

import dataclasses
import re

from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.sources.folder_tree import Folder
from flax_augtl.runtime.text import readable

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Words that count if no folder has one of the words above for the same split. Rules 1 do not know them.
_SYNONYMS = {"trn": "train", "dev": "val", "eval": "val", "evaluation": "val", "tst": "test"}
_UNLABELLED = frozenset({"pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled"})
_WORDS = "|".join([*_SPLITS, *_SYNONYMS, *_UNLABELLED])
_SPLIT_WORD = re.compile(rf"({_WORDS})(?:sets?|data|images?)?(?:(?:19|20)\d\d)?", re.ASCII)  # As in train2017.
# Words that say nothing about the content of a folder.
_FILLERS = frozenset("set sets data dataset image images img imgs picture pictures photo photos folder split".split())
# Names of the only folder of an unlabelled split, which no class has.
_NO_CLASS = _FILLERS | _UNLABELLED | {"unknown", "all", *_SPLITS}


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder and its path from the root.

    Attributes:
      path: relative to the root, "" for the root itself.
      folder: its content.
      above: the folders above it.
    """

    path: str
    folder: Folder
    above: tuple[Folder, ...] = ()

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def inside(self, name: str) -> "Place":
        """Return one of its sub-folders."""
        return Place(
            f"{self.path}/{name}" if self.path else name, self.folder.folders[name], (*self.above, self.folder)
        )

    def with_images(self) -> list["Place"]:
        """Return its sub-folders that have images in them or below them."""
        places = (self.inside(name) for name in self.folder.folders)
        return [place for place in places if place.has_images()]

    def has_images(self) -> bool:
        """Tell whether there are images in it or below it."""
        return self.folder.has_images(self.above)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The parts of a root.

    Attributes:
      splits: (split, place) of every folder whose sub-folders are classes; "all" must still be split.
      classes: (split, class, place), if the classes contain the splits; `splits` is then empty.
      aside: folders that are not used.
      notes: sentences for the log.
    """

    splits: tuple[tuple[str, Place], ...] = ()
    classes: tuple[tuple[str, str, Place], ...] = ()
    aside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_layout(root: str, tree: Folder, rules: int) -> Layout:
    """Tell splits, classes and wrappers apart.

    A folder without images and with only one sub-folder is a wrapper, and is skipped. A root has splits if it has a
    folder train/ (or training/, train_set/, …; or seg_train/ beside seg_test/) with class folders, or if each of its
    folders has a folder train/ and other splits only.

    Args:
      root: for messages.
      tree: the content of the root.
      rules: config.data.folder_rules. Rules 1 know no wrappers, and only splits at the top.

    Raises:
      DataError: a split has two folders, or there are splits but no training split.
    """
    notes: list[str] = []
    top = Place("", tree)
    if rules > 1:
        top = _unwrapped(top, root, notes, stop_at_splits=True)
    names = {name: top.inside(name) for name in top.folder.folders}
    parts = _parts(root, top, rules)
    train = next((names[name] for name, split in parts.items() if split == "train"), None)
    if train is not None and _holds_classes(train, names, parts, rules):
        return Layout(
            tuple((split, names[name]) for name, split in parts.items()),
            aside=tuple(place.path for name, place in names.items() if name not in parts),
            notes=tuple(notes),
        )
    if parts and len(parts) == len(names) and not any(place.folder.images for place in names.values()):
        raise DataError(
            f"{_under(root, top)} has {listed(map(readable, names))} and no folder train/: there is nothing to train "
            "on. Call the folder of the training images train, or set config.data.root to a folder that is to be split."
        )
    if rules > 1 and train is not None and len(parts) == len(names) > 1:
        raise DataError(
            f"{_under(root, top)} has {listed(map(readable, names))}, whose images lie in no class folder. Put the "
            'training images of each class into a sub-folder of their own, or write a list: config.data.name="list".'
        )
    inside = _within_classes(root, top, notes) if rules > 1 else ()
    if inside:
        return Layout(classes=inside, notes=tuple(notes))
    return Layout((("all", top),), notes=(*notes, *_look_like_splits(root, top)))


def unwrapped_split(place: Place, root: str, notes: list[str], known: frozenset[str]) -> Place:
    """Skip the wrappers in the folder of a split; `known` are the training classes, which are not wrappers."""
    return _unwrapped(place, root, notes, known=known)


def is_unlabelled(place: Place, known: frozenset[str]) -> bool:
    """Tell whether a split has images but no classes: no folders, or only one whose name cannot be a class."""
    inside = place.with_images()
    if not inside:
        return bool(place.folder.images)
    if len(inside) > 1 or inside[0].name in known or inside[0].with_images():
        return False
    return inside[0].name.lower() in _NO_CLASS or inside[0].name == place.name


def _under(root: str, place: Place) -> str:
    return readable(f"{root.rstrip('/')}/{place.path}" if place.path else root)


def _unwrapped(
    place: Place, root: str, notes: list[str], known: frozenset[str] = frozenset(), stop_at_splits: bool = False
) -> Place:
    """Return the first folder at or below a place that is not a wrapper."""
    outer = place
    while not place.folder.images:
        inside = place.with_images()
        aside = [below for name, below in place.folder.folders.items() if name not in {p.name for p in inside}]
        # An empty folder may be a class without images yet, but a folder of annotations is not a class.
        if len(inside) != 1 or any(not any(f.others for _, f in below.walk()) for below in aside):
            break
        if inside[0].name in known or not inside[0].with_images() or stop_at_splits and _split_of(inside[0].name):
            break
        place = inside[0]
    if place is not outer:
        notes.append(
            f"{_under(root, outer)} has no images of its own and one folder with images only: the images are taken "
            f"from {_under(root, place)}."
        )
    return place


def _split_of(name: str) -> tuple[str, str] | None:
    """Return (the other words of a folder's name, its split), such as ("seg *", "train"); None if it is no split."""
    words = _words(name)
    found = [(number, match[1]) for number, word in enumerate(words) if (match := _SPLIT_WORD.fullmatch(word))]
    if len(found) != 1:
        return None
    number, word = found[0]
    around = ["*" if n == number else other for n, other in enumerate(words) if n == number or other not in _FILLERS]
    return " ".join(around), _SPLITS.get(word) or _SYNONYMS.get(word, "unlabelled")


def _has_synonym(name: str) -> bool:
    return any(match[1] in _SYNONYMS for word in _words(name) if (match := _SPLIT_WORD.fullmatch(word)))


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if word]


def _first_split_of(name: str) -> str | None:
    """Return the split of a folder by its name under rules 1."""
    return _SPLITS.get(re.sub(r"[_-]?set$", "", name.lower()))


def _parts(root: str, top: Place, rules: int) -> dict[str, str]:
    """Return {folder: split} for the folders of a root whose names are splits.

    Raises:
      DataError: a split has two folders, or there are two sets of splits.
    """
    groups: dict[str, list[tuple[str, str]]] = {"*": []}
    for name in top.folder.folders:
        if rules < 2:
            found = ("*", split) if (split := _first_split_of(name)) else None
        else:
            found = _split_of(name)
        if found:
            groups.setdefault(found[0], []).append((name, found[1]))
    plain = groups.pop("*")
    if not any(split == "train" for _, split in plain):
        # A class may be called bullet_train, so a split with other words in its name counts only beside a second split.
        found_in = {around: {split for _, split in group} for around, group in groups.items()}
        others = [
            group for around, group in groups.items() if "train" in found_in[around] and len(found_in[around]) > 1
        ]
        if len(others) > 1:
            raise DataError(
                f"{_under(root, top)} has more than one set of splits: "
                f"{'; '.join(listed(readable(name) for name, _ in group) for group in others)}. "
                "Keep the folders of one there."
            )
        plain = others[0] if others else plain
    if rules > 1:
        sure = {split for name, split in plain if not _has_synonym(name)}
        plain = [(name, split) for name, split in plain if split not in sure or not _has_synonym(name)]
    parts: dict[str, str] = {}
    for name, split in plain:
        if split in parts.values() and split != "unlabelled":
            twice = listed(readable(n) for n, s in plain if s == split)
            raise DataError(f"{_under(root, top)} has more than one folder for the {split} split: {twice}. Keep one.")
        parts[name] = split
    return {name: split for name, split in parts.items() if split != "unlabelled"}


def _holds_classes(train: Place, names: dict[str, Place], parts: dict[str, str], rules: int) -> bool:
    """Tell whether train/ is a split, not a class "train" beside "car" and "bus"."""
    if (
        rules > 1
        and train.folder.images
        and all(name in parts or not place.has_images() for name, place in names.items())
    ):
        return bool(train.with_images())  # There are images beside the class folders.
    return bool(train.folder.folders) and not train.folder.images


def _within_classes(root: str, top: Place, notes: list[str]) -> tuple[tuple[str, str, Place], ...]:
    """Return the classes of the layout CLASS/train, CLASS/test; none for other layouts.

    Raises:
      DataError: the splits have sub-folders that look like classes.
    """
    classes = top.with_images()
    found, whole = [], []
    for place in classes:
        inside = place.with_images()
        named = [_split_of(below.name) for below in inside]
        splits = [split[1] if split and split[0] == "*" else None for split in named]
        if not place.folder.images and inside and None not in splits and len(set(splits)) == len(splits):
            found.append((place, dict(zip(splits, inside, strict=True))))
        else:
            whole += [place.path] if any(splits) else []
    if len(classes) < 2 or len(found) < len(classes) or not any("train" in splits for _, splits in found):
        if whole or found:
            names = listed(readable(name) for name in sorted([*whole, *(place.path for place, _ in found)]))
            notes.append(
                f"These class folders of {_under(root, top)} hold folders with names of splits, but not "
                f"all classes do: {names}. All their images are taken together."
            )
        return ()
    below = {tuple(place.folder.folders) for _, splits in found for place in splits.values()}
    if (
        len(below) == 1
        and len(min(below)) > 1
        and not any(s.folder.images for _, splits in found for s in splits.values())
    ):
        raise DataError(
            f"{_under(root, top)} has {listed(readable(p.name) for p, _ in found)}, each with splits that hold "
            f"{listed(map(readable, min(below)))}. If those are the classes, give one of the folders above, such as "
            f"config.data.root={_under(root, found[0][0])}."
        )
    splits = sorted({split for _, splits in found for split in splits} - {"unlabelled"}, reverse=True)
    notes.append(f"Each class folder of {_under(root, top)} holds its own splits: {', '.join(splits)}.")
    parts = [(split, place.name, below) for place, inside in found for split, below in inside.items()]
    return tuple(part for part in parts if part[0] != "unlabelled")


def _look_like_splits(root: str, top: Place) -> tuple[str, ...]:
    """Return a note if the class folders look like splits, because all have the same sub-folders."""
    tops = list(top.folder.folders)
    inside = [tuple(top.folder.folders[name].folders) for name in tops]
    if len(tops) < 2 or len(inside[0]) < 2 or len(set(inside)) > 1:
        return ()
    return (
        f"The classes are the folders {listed(map(readable, tops))} of {_under(root, top)}, each of which holds "
        f"{listed(map(readable, inside[0]))}. If those are the classes, call the folders above them train, val and "
        "test.",
    )
