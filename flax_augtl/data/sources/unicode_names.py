"""Compare the names of classes and files: Unicode forms, bytes that are not text, and names that look alike.

`café` has two forms: with one code point for the é (NFC, on Windows and Linux), or with two (NFD, on Macs and in
archives made there). Here they are one name. Names are compared and stored in NFC; files are opened with the name on
the disk.
"""

import collections
import dataclasses
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from flax_augtl.data.types import Dataset
from flax_augtl.runtime.paths import nfc
from flax_augtl.runtime.text import readable

Form = Literal["NFC", "NFD"]


@dataclasses.dataclass(frozen=True)
class Spelling:
    """The spelling of class names and of ids of examples.

    Attributes:
      form: the Unicode form; None to keep the form that is found.
      known: {name in NFC: name} for names with another spelling.
    """

    form: Form | None = "NFC"
    known: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __call__(self, name: str) -> str:
        """Return a name in this spelling."""
        if name.isascii():
            return name
        text = readable(name)
        return self.known.get(nfc(name)) or (unicodedata.normalize(self.form, text) if self.form else text)


def spelling_of(class_names: Iterable[str], ids: Iterable[str], default: Form | None = "NFC") -> Spelling:
    """Return the spelling that a run used, so that it can continue when the disk has another Unicode form.

    Args:
      class_names: class names of the run.
      ids: ids of its examples.
      default: form of names that are not in the run.
    """
    class_names, ids = list(class_names), list(ids)
    written = [name for name in (*class_names, *ids) if not name.isascii()]
    if len({nfc(name) for name in class_names}) < len(set(class_names)):
        return Spelling(None)  # An older version made two classes of the two forms of a name.
    if all(nfc(name) == name for name in written):
        return Spelling("NFC" if written else default)
    forms: dict[str, set[str]] = {}
    for name in written:
        forms.setdefault(nfc(name), set()).add(name)
    form = "NFD" if all(unicodedata.is_normalized("NFD", name) for name in written) else default
    return Spelling(form, {key: min(names) for key, names in forms.items() if len(names) == 1})


def ids_of(paths: Iterable[str], spelling: Spelling) -> dict[str, str]:
    """Return {path: id}; files whose paths differ only by their Unicode form keep their own spelling."""
    ids = {path: spelling(path) for path in paths}
    counts = collections.Counter(ids.values())
    return {path: readable(path) if counts[name] > 1 else name for path, name in ids.items()}


def renamed(dataset: Dataset, class_names: tuple[str, ...]) -> Dataset:
    """Return a dataset with these class names if its own differ only by their Unicode form; else unchanged."""
    position = {nfc(name): number for number, name in enumerate(class_names)}
    ours = [nfc(name) for name in dataset.class_names]
    if dataset.class_names == class_names or len(position) < len(class_names) or sorted(ours) != sorted(position):
        return dataset
    if all(map(str.isascii, ours)):
        return dataset
    numbers = np.array([position[name] for name in ours], np.int32)
    splits = {name: part and dataclasses.replace(part, labels=numbers[part.labels])
              for name, part in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test))}  # fmt: skip
    return dataclasses.replace(dataset, class_names=class_names, fingerprint="", **splits)


def look_alikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of names that differ only by case or spaces."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(_without_case_and_blanks(name), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def look_alike_note(names: Sequence[str], what: str = "classes") -> str:
    """Return a note about names that differ only by case or spaces; "" if there are none."""
    groups = look_alikes(names)
    if not groups:
        return ""
    some = "; ".join(" and ".join(map(repr, group)) for group in groups[:5]) + "; …" * (len(groups) > 5)
    return f"These {what} differ only by case or spaces, and are kept apart: {some}. If they are one, rename them."


def _without_case_and_blanks(name: str) -> str:
    folded = unicodedata.normalize("NFKC", readable(name)).casefold()
    return "".join(c for c in folded if not c.isspace() and unicodedata.category(c) != "Cf")
