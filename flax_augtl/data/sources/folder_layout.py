"""How a folder of images is laid out: which of its folders are splits, which are classes, which are mere wrappers."""

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
# Words that count where no folder has one of those above for the same split; the first rules did not know them.
_SYNONYMS = {"trn": "train", "dev": "val", "eval": "val", "evaluation": "val", "tst": "test"}
_UNLABELLED = frozenset({"pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled"})
_WORDS = "|".join([*_SPLITS, *_SYNONYMS, *_UNLABELLED])
_SPLIT_WORD = re.compile(rf"({_WORDS})(?:sets?|data|images?)?(?:(?:19|20)\d\d)?", re.ASCII)  # As in train2017.
# Words that say nothing of what is in a folder.
_FILLERS = frozenset("set sets data dataset image images img imgs picture pictures photo photos folder split".split())
# What the one folder of an unlabelled split may be called; a class may not.
_NO_CLASS = _FILLERS | _UNLABELLED | {"unknown", "all", *_SPLITS}


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder, and how it is reached from the root.

    Attributes:
        path: relative to the root, "" for the root itself.
        folder: what is in it.
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
        """One of its folders."""
        return Place(
            f"{self.path}/{name}" if self.path else name, self.folder.folders[name], (*self.above, self.folder)
        )

    def with_images(self) -> list["Place"]:
        """Those of its folders that hold images, themselves or below."""
        places = (self.inside(name) for name in self.folder.folders)
        return [place for place in places if place.has_images()]

    def has_images(self) -> bool:
        """Tell whether there are images in it or below it."""
        return self.folder.has_images(self.above)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The parts of a root.

    Attributes:
        splits: (split, place) of every folder whose sub-folders are classes; "all" is yet to be split.
        classes: (split, class, place) where the splits lie within the classes; `splits` is then empty.
        aside: folders that are not used.
        notes: sentences for the log.
    """

    splits: tuple[tuple[str, Place], ...] = ()
    classes: tuple[tuple[str, str, Place], ...] = ()
    aside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_layout(root: str, tree: Folder, rules: int) -> Layout:
    """Tell splits, classes and wrappers apart.

    A folder without images that holds one folder only is a wrapper, and is looked through. A root is split if it has a
    folder train/ (or training/, train_set/, …; or seg_train/ beside seg_test/) that holds class folders, or if each of
    its folders holds a folder train/ and nothing but splits.

    Args:
        root: for messages.
        tree: what is in it.
        rules: as `config.data.folder_rules`; 1 knows no wrappers, and splits at the top only.

    Raises:
        DataError: two folders for one split, or splits and none to train on.
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
            f"{_under(root, top)} has {listed(map(readable, names))} and no folder train/: there is nothing to train on. "
            "Call the folder of the training images train, or give the one that is to be split as config.data.root."
        )
    if rules > 1 and train is not None and len(parts) == len(names) > 1:
        raise DataError(
            f"{_under(root, top)} has {listed(map(readable, names))}, whose images lie in no class folder. Put the training "
            'images of each class into a sub-folder of their own, or write a list: config.data.name="list".'
        )
    inside = _within_classes(root, top, notes) if rules > 1 else ()
    if inside:
        return Layout(classes=inside, notes=tuple(notes))
    return Layout((("all", top),), notes=(*notes, *_look_like_splits(root, top)))


def unwrapped_split(place: Place, root: str, notes: list[str], known: frozenset[str]) -> Place:
    """Look through the wrappers of a split's folder; `known` are the classes of the training split, which are none."""
    return _unwrapped(place, root, notes, known=known)


def is_unlabelled(place: Place, known: frozenset[str]) -> bool:
    """Tell whether a split has images but no classes: no folders, or one whose name is that of no class."""
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
    """Return the first folder at or below a place that is no wrapper."""
    outer = place
    while not place.folder.images:
        inside = place.with_images()
        aside = [below for name, below in place.folder.folders.items() if name not in {p.name for p in inside}]
        # A folder without any file may be a class whose images are still to come; one of annotations is none.
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
    """Return (what stands around it, the split) that a folder is by its name, such as ("seg *", "train"); else None."""
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
    """Return the split that a folder was by its name under the first rules."""
    return _SPLITS.get(re.sub(r"[_-]?set$", "", name.lower()))


def _parts(root: str, top: Place, rules: int) -> dict[str, str]:
    """Return {folder: split} of the folders of a root that are splits by their names."""
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
        # A class may be called bullet_train: with something around it, a split needs a second one.
        kinds = {around: {split for _, split in group} for around, group in groups.items()}
        others = [group for around, group in groups.items() if "train" in kinds[around] and len(kinds[around]) > 1]
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
    """False for a class that happens to be called "train", beside "car" and "bus"."""
    if (
        rules > 1
        and train.folder.images
        and all(name in parts or not place.has_images() for name, place in names.items())
    ):
        return bool(train.with_images())  # Some images beside the class folders.
    return bool(train.folder.folders) and not train.folder.images


def _within_classes(root: str, top: Place, notes: list[str]) -> tuple[tuple[str, str, Place], ...]:
    """Return the classes of the layout CLASS/train, CLASS/test; none if it is another."""
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
                f"These class folders of {_under(root, top)} hold folders that are called as splits are, but not "
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
            f"{listed(map(readable, min(below)))}. "
            f"If those are the classes, give one of the folders above, such as config.data.root={_under(root, found[0][0])}."
        )
    splits = sorted({split for _, splits in found for split in splits} - {"unlabelled"}, reverse=True)
    notes.append(f"Each class folder of {_under(root, top)} holds its own splits: {', '.join(splits)}.")
    parts = [(split, place.name, below) for place, inside in found for split, below in inside.items()]
    return tuple(part for part in parts if part[0] != "unlabelled")


def _look_like_splits(root: str, top: Place) -> tuple[str, ...]:
    """Return a note where the folders that are taken for classes look like splits, for all hold the same folders."""
    tops = list(top.folder.folders)
    inside = [tuple(top.folder.folders[name].folders) for name in tops]
    if len(tops) < 2 or len(inside[0]) < 2 or len(set(inside)) > 1:
        return ()
    return (
        f"The classes are the folders {listed(map(readable, tops))} of {_under(root, top)}, each of which holds "
        f"{listed(map(readable, inside[0]))}. If those are the classes, call the folders above them train, val and test.",
    )
