"""Read a folder tree once: images, other files and sub-folders, without litter."""

import dataclasses
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from flax_augtl.data.errors import DataError
from flax_augtl.data.images import sniff
from flax_augtl.data.sources.litter import is_conflict_copy, is_litter
from flax_augtl.runtime.paths import is_remote

RULES = 2  # The newest value of config.data.folder_rules.


@dataclasses.dataclass(eq=False)
class Folder:
    """The content of a folder. If links lead to a folder, it is one object in all places.

    Attributes:
      folders: sub-folders by name, in order.
      images: names of the image files, in order.
      others: names of the other files.
      inodes: inode of the file of each image; 0 if it is unknown.
    """

    folders: dict[str, "Folder"] = dataclasses.field(default_factory=dict)
    images: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)
    inodes: list[int] = dataclasses.field(default_factory=list)

    def walk(self, prefix: str = "", above: tuple["Folder", ...] = ()) -> Iterator[tuple[str, "Folder"]]:
        """Yield (prefix of its paths, folder) for this folder and all below it, each once.

        Args:
          prefix: prefix of the paths in this folder, such as "train/ants/".
          above: folders to skip, because a link may lead back to them.
        """
        seen, waiting = {id(folder) for folder in above}, [(prefix, self)]
        while waiting:
            here, folder = waiting.pop()
            if id(folder) in seen:
                continue
            seen.add(id(folder))
            yield here, folder
            waiting += [(f"{here}{name}/", below) for name, below in reversed(folder.folders.items())]

    def has_images(self, above: tuple["Folder", ...] = ()) -> bool:
        """Tell whether there is an image in this folder or below it."""
        return any(folder.images for _, folder in self.walk(above=above))


def read_tree(root: epath.PathLike, rules: int = RULES) -> Folder:
    """Read a folder of this machine or of a bucket.

    Links to folders are followed, unless they lead to a folder above them. A file with an unknown ending is an image if
    it begins like one.

    Args:
      root: the folder. Its own name may be one that is skipped below it.
      rules: config.data.folder_rules. Rules 1 use the endings only.

    Raises:
      DataError: a folder cannot be listed.
    """
    return _read_remote(epath.Path(root), rules) if is_remote(root) else _read_local(os.fspath(root), rules)


def image_paths(root: epath.PathLike) -> list[str]:
    """Return the paths of all images below a folder, sorted and relative to it."""
    return sorted(prefix + name for prefix, folder in read_tree(root).walk() for name in folder.images)


def _read_local(root: str, rules: int) -> Folder:
    top = Folder()
    top_path = os.path.realpath(root)
    above = {str(parent) for parent in Path(top_path).parents}
    known = {top_path: top}  # By real path, so that each folder is read once.
    waiting = [(top, top_path)]
    while waiting:
        folder, path = waiting.pop()
        try:
            with os.scandir(path) as scanned:
                entries = sorted((entry for entry in scanned if not is_litter(entry.name, rules)), key=lambda e: e.name)
        except OSError as error:
            raise DataError(
                f"The folder {path} cannot be listed: {error.strerror}. Make it readable or remove it."
            ) from None
        names = {entry.name for entry in entries}
        for entry in entries:
            if not _is_folder(entry):
                if not (rules > 1 and is_conflict_copy(entry.name, names)):
                    _add_file(folder, entry, rules)
                continue
            there = os.path.join(path, entry.name)
            if entry.is_symlink():
                there = os.path.realpath(there)
                if there in above or (path + os.sep).startswith(there.rstrip(os.sep) + os.sep) and there != top_path:
                    continue  # A link to a folder above would never end.
            if there not in known:
                known[there] = Folder()
                waiting.append((known[there], there))
            folder.folders[entry.name] = known[there]
    return top


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _add_file(folder: Folder, entry: os.DirEntry, rules: int) -> None:
    inode, sound = entry.inode(), True
    if entry.is_symlink():
        try:
            inode = os.stat(entry.path).st_ino
        except OSError as error:
            if error.errno == errno.ELOOP:
                return  # A link to itself.
            inode, sound = 0, False  # Reading the image reports the broken link.
    is_image = sniff.by_name(entry.name)
    if sound and not entry.is_file():
        is_image = False  # Reading a pipe would wait forever.
    elif is_image is None:
        is_image = rules > 1 and sniff.is_image_file(entry.path)
    if is_image:
        folder.images.append(entry.name)
        folder.inodes.append(inode)
    else:
        folder.others.append(entry.name)


def _read_remote(root: epath.Path, rules: int) -> Folder:
    """Read a folder of a bucket with one recursive listing, because asking for each path takes a request each."""
    top, base = Folder(), _without_scheme(root)
    doubtful: list[tuple[Folder, str, str]] = []
    for here, _, names in root.walk():
        # epath's backend for buckets omits the scheme here.
        parts = [part for part in _without_scheme(here)[len(base) :].split("/") if part]
        if any(is_litter(part, rules) for part in parts):
            continue
        folder = top
        for part in parts:
            folder = folder.folders.setdefault(part, Folder())
        for name in names:
            if not name or is_litter(name, rules) or rules > 1 and is_conflict_copy(name, names):
                continue
            is_image = sniff.by_name(name)
            if is_image is None and rules > 1:
                doubtful.append((folder, name, "/".join([os.fspath(root).rstrip("/"), *parts, name])))
            else:
                (folder.images if is_image else folder.others).append(name)
    sniffed = sniff.are_images([url for _, _, url in doubtful])
    for (folder, name, _), is_image in zip(doubtful, sniffed, strict=True):
        (folder.images if is_image else folder.others).append(name)
    for _, folder in top.walk():
        folder.folders = dict(sorted(folder.folders.items()))
        folder.images.sort()
        folder.inodes = [0] * len(folder.images)
    return top


def _without_scheme(path: epath.PathLike) -> str:
    return os.fspath(path).rpartition("://")[2].rstrip("/")
