"""Recognize files that file managers, NAS systems, sync clients, editors and notebooks leave in folders of images.

docs/data.md has the list for users; a test compares the two.
"""

import fnmatch
import functools
import re
from collections.abc import Collection

# Further names, in lower case; `*` is any text. All names that begin with a dot are litter, too: .DS_Store, ._*,
# .ipynb_checkpoints, .Trash-1000, .dropbox.cache, .@__thumb, …
LITTER = {
    "macOS": ("__macosx", "icon\r", "icon\uf00d", "network trash folder", "temporary items"),
    "Windows": (
        "thumbs.db",
        "thumbs.db:encryptable",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "photothumb.db",
        "desktop.ini",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "found.[0-9][0-9][0-9]",
        "*:zone.identifier",
    ),
    "Linux": ("lost+found",),
    "Synology": (
        "@eadir",
        "@tmp",
        "@sharesnap",
        "@synofinder*",
        "*@synoresource",
        "*@synoeastream",
        "#recycle",
        "#snapshot",
    ),
    "QNAP": ("@recycle", "@recently-snapshot", "@__thumb"),
    "NetApp": ("~snapshot",),
    "photo managers": ("picasa.ini", "zbthumbnail.info", "ipod photo cache", "*.lrdata"),
    "sync clients": ("~syncthing~*", "*.!sync", "*.bts", "tmp.drivedownload", "tmp.driveupload", "_gsdata_"),
    "downloads": (
        "*.part",
        "*.partial",
        "*.crdownload",
        "*.download",
        "*.opdownload",
        "*.filepart",
        "*.aria2",
        "*.!ut",
    ),
    "editors": ("*~", "~$*", "*.swp", "*.tmp", "*.bak"),
    "notebooks": ("__pycache__",),
}
_PATTERN = re.compile("|".join(fnmatch.translate(pattern) for patterns in LITTER.values() for pattern in patterns))
# “a (Ann's conflicted copy 2024-05-01).jpg”, “a (conflicted copy 2024-05-01 101500).jpg”, “a.sync-conflict-….jpg”.
_CONFLICT = re.compile(
    r"( \([^()]*conflicted copy[^()]*\)|\.sync-conflict-[0-9]{8}-[0-9]{6}-[A-Z0-9]+|_conflict-[0-9-]+)", re.I
)
_FIRST = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@functools.lru_cache(maxsize=4096)
def is_litter(name: str, rules: int = 2) -> bool:
    """Tell whether a file or folder with this name is not part of the data; `rules` is config.data.folder_rules."""
    if rules < 2:
        return name.startswith(".") or name.lower() in _FIRST
    return name.startswith(".") or bool(_PATTERN.fullmatch(name.lower()))


def is_conflict_copy(name: str, beside: Collection[str]) -> bool:
    """Tell whether a file is a conflicting copy that a sync client made of a file beside it."""
    return "conflict" in name.lower() and _CONFLICT.sub("", name) != name and _CONFLICT.sub("", name) in beside
