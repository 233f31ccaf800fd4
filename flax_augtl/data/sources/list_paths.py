"""Paths as a list writes them → paths of the files that are there."""

import os
import unicodedata

from etils import epath

from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.images.decode import SUFFIXES
from flax_augtl.data.sources.downloads import is_url, local_path
from flax_augtl.data.sources.list_words import has_ending
from flax_augtl.runtime.paths import is_remote


def nfc(text: str) -> str:
    """Return a text in Unicode's composed form: é is one character, however it was typed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class ListedFiles:
    """Finds the files of a list: names without ending, backslashes, `file://`, and the other form of Unicode.

    Args:
        root: what paths are relative to: a folder, or an address on the web.
    """

    def __init__(self, root: str):
        self.root = root
        self._folders: dict[str, _Folder] = {}
        self._real: dict[str, str | None] = {}

    def is_there(self, path: str) -> bool:
        """Whether a path, as a list writes it, is that of a file, or with "/" at its end of a folder; never on the web."""
        try:
            if not path or is_url(full := self._placed(self.find(path))):
                return False
            return self._is_folder(full) if path.endswith("/") else self._exists(full) and not self._is_folder(full)
        except (OSError, ValueError):
            return False

    def find(self, path: str) -> str:
        """Return a path below the root, or an absolute one; as it is written if no such file is there.

        Raises:
            DataError: an address that cannot be read, or a name without ending that several files have.
        """
        if is_remote(path) and is_remote(path := local_path(path)):
            return path
        if is_url(self.root):
            return self._placed(path.replace("\\", "/"))
        if "\\" in path and not self._exists(self._placed(path)):
            path = path.replace("\\", "/")
        named = has_ending(path)
        if named and path.isascii():
            return path  # Nothing to find: the scan tells whether it is there.
        try:
            return self._found(path, named)
        except OSError:
            return path

    def _found(self, path: str, named: bool) -> str:
        full = self._placed(path)
        folder, name = self._actual(os.path.dirname(full) or "."), os.path.basename(full)
        if not named and folder is not None and self._is_folder(folder):
            here = self._folder(folder)
            same = here.stems.get(nfc(name), [])
            # A folder may have the name of an image without its ending.
            if same and (nfc(name) not in here.forms or self._is_folder(full)):
                return self._below_root(path, os.path.join(folder, self._only(same, path)))
        actual = self._actual(full)
        return path if actual is None else self._below_root(path, actual)

    def _only(self, names: list[str], path: str) -> str:
        if len(names) > 1:
            raise DataError(
                f"{path} in the list may be {listed(names)} below {self.root}. Write the ending in the list."
            )
        return names[0]

    def _placed(self, path: str) -> str:
        if is_remote(path):
            return path
        if is_url(self.root):
            return f"{self.root.rstrip('/')}/{path.removeprefix('./').lstrip('/')}"
        return os.path.join(self.root, path)

    def _below_root(self, path: str, full: str) -> str:
        return full if os.path.isabs(path) else full[len(os.path.join(self.root, "")) :]

    def _actual(self, full: str) -> str | None:
        """Return an existing path, with each of its names in the form that the disk has; None if there is none."""
        if full not in self._real:
            self._real[full] = full if self._exists(full) else self._in_other_form(full)
        return self._real[full]

    def _in_other_form(self, full: str) -> str | None:
        folder, name = os.path.split(full)
        if not name or folder == full or (folder := self._actual(folder or ".")) is None or not self._is_folder(folder):
            return None
        names = self._folder(folder).forms.get(nfc(name))
        return os.path.join(folder, names[0]) if names else None

    def _folder(self, path: str) -> "_Folder":
        if path not in self._folders:
            names = [p.name for p in epath.Path(path).iterdir()] if is_remote(path) else os.listdir(path or ".")
            self._folders[path] = _Folder(names)
        return self._folders[path]

    def _exists(self, full: str) -> bool:
        return epath.Path(full).exists() if is_remote(full) else os.path.exists(full)

    def _is_folder(self, full: str) -> bool:
        return epath.Path(full).is_dir() if is_remote(full) else os.path.isdir(full)


class _Folder:
    """The names in a folder, by what a list may call them."""

    def __init__(self, names: list[str]):
        self.forms: dict[str, list[str]] = {}
        self.stems: dict[str, list[str]] = {}
        for name in sorted(names):
            self.forms.setdefault(nfc(name), []).append(name)
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES and not name.startswith("."):
                self.stems.setdefault(nfc(stem), []).append(name)
