"""Find the files that a list names."""

import os
import unicodedata

from etils import epath

from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.images.decode import SUFFIXES
from flax_augtl.data.sources.downloads import is_url, local_path
from flax_augtl.data.sources.list_words import has_ending
from flax_augtl.runtime.paths import is_remote


def nfc(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), in which é is one character."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class ListedFiles:
    """Finds listed files, also by names without ending, with backslashes, `file://`, or in another Unicode form."""

    def __init__(self, root: str):
        """Take the root of the paths, which is a folder or a web address."""
        self.root = root
        self._folders: dict[str, _Folder] = {}
        self._real: dict[str, str | None] = {}

    def is_there(self, path: str) -> bool:
        """Tell whether a listed path is that of a local file, or of a folder if it ends with "/"."""
        try:
            if not path or is_url(full := self._placed(self.find(path))):
                return False
            return self._is_folder(full) if path.endswith("/") else self._exists(full) and not self._is_folder(full)
        except (OSError, ValueError):
            return False

    def find(self, path: str) -> str:
        """Return the path of a file, relative to the root or absolute; unchanged if there is no such file.

        Raises:
          DataError: the address is not supported, or several files have the name without ending.
        """
        if is_remote(path) and is_remote(path := local_path(path)):
            return path
        if is_url(self.root):
            return self._placed(path.replace("\\", "/"))
        if "\\" in path and not self._exists(self._placed(path)):
            path = path.replace("\\", "/")
        named = has_ending(path)
        if named and path.isascii():
            return path  # There is nothing to find; the scan reports missing files.
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
            # There may be a folder with the name of the image without its ending.
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
        """Return an existing path with each name in the form on the disk; None if there is none."""
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
    """The names in a folder, by the forms that a list may use."""

    def __init__(self, names: list[str]):
        self.forms: dict[str, list[str]] = {}
        self.stems: dict[str, list[str]] = {}
        for name in sorted(names):
            self.forms.setdefault(nfc(name), []).append(name)
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES and not name.startswith("."):
                self.stems.setdefault(nfc(stem), []).append(name)
