"""Find images by paths with `*`, `?`, `[…]` and `**`, on this machine or in a bucket."""

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Iterator

from etils import epath

from flax_augtl.data.sources.folder_tree import image_paths, read_tree
from flax_augtl.data.sources.litter import is_conflict_copy, is_litter
from flax_augtl.errors import UserError
from flax_augtl.runtime.paths import Finder, exists, is_folder, is_remote, nfc

_SIGNS = re.compile(r"[*?\[]")


def matching_files(pattern: str) -> list[str]:
    """Return the files that a pattern matches, sorted.

    A part that exists with exactly that name is not a pattern, so folders such as `at [1]` work. `**` is any number of
    folders. Hidden files and litter match only if the pattern names them.
    """
    if exists(pattern) and _is_file(pattern):
        return [pattern]
    scheme, separator, rest = pattern.rpartition("://")
    parts = [part for part in rest.split("/") if part not in ("", ".")]
    start = scheme + separator + ("/" if rest.startswith("/") and not separator else "")
    return sorted({path for path in _expand(start, parts, Finder()) if _is_file(path)})


def _expand(here: str, parts: list[str], finder: Finder) -> Iterator[str]:
    """Yield the paths at `here` (a folder with its slash, or "") that match the parts."""
    if not parts:
        if here:
            yield here.rstrip("/")
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        for folder, files in _below(here):
            yield from _expand(folder, rest, finder) if rest else (folder + name for name in files)
        return
    there = finder(here + part)
    if not _SIGNS.search(part) or exists(there):
        if exists(there):
            yield from _expand(there + "/", rest, finder)
        return
    matches = re.compile(fnmatch.translate(nfc(part))).match
    names = _names(here)
    for name in names:
        if is_conflict_copy(name, names) or is_litter(name) and not (name.startswith(".") and part.startswith(".")):
            continue
        if matches(nfc(name)):
            if not rest or is_folder(here + name):
                yield from _expand(f"{here}{name}/", rest, finder)


def _below(here: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder, names of its files) for a folder and all below it."""
    if is_folder(here or "."):
        for prefix, folder in read_tree(here or ".").walk():
            yield here + prefix, [*folder.images, *folder.others]


def _names(folder: str) -> list[str]:
    try:
        if is_remote(folder):
            return sorted(path.name for path in epath.Path(folder).iterdir())
        return sorted(os.listdir(folder or "."))
    except OSError:
        return []


def _is_file(path: str) -> bool:
    """Tell whether reading a path cannot block; a broken link counts, because reading it reports the error."""
    if is_remote(path):
        return not is_folder(path)
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        return error.errno != errno.ELOOP


def find_images(images: str) -> list[str]:
    """Return the path of an image, the paths of all images below a folder, or those of files that match a pattern.

    A path that exists is not a pattern. Litter, such as files of file managers, is skipped.

    Raises:
      UserError: there is no image.
    """
    images = Finder()(os.path.expanduser(images))
    paths = (
        [os.path.join(images, path) for path in image_paths(images)] if is_folder(images) else matching_files(images)
    )
    if not paths:
        raise UserError(f"--images={images}: there is no such image, and no folder or pattern with images.")
    return paths
