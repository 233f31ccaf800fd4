"""Reads the index of a checkpoint in several files, such as model.safetensors.index.json."""

import json
import re
from pathlib import Path

from flax_augtl.pretrained.errors import CheckpointError

INDEX = ".index.json"
_PART = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")


def index_beside(file: Path) -> Path:
    """Return the index of the checkpoint that a file is a part of; the file itself if there is no index."""
    match = _PART.fullmatch(file.name)
    index = file.with_name(f"{match[1]}{match[4]}{INDEX}") if match else file
    return index if index.exists() else file


def part_files(file: Path) -> tuple[Path, ...]:
    """Return the parts that an index names, in order; none if the file is no index.

    Raises:
      CheckpointError: the index is damaged, or parts are missing.
    """
    if not file.name.endswith(INDEX):
        return ()
    names = part_names(file)
    absent = [name for name in names if not (file.parent / name).exists()]
    if absent:
        raise CheckpointError(
            f"{file} names {len(names)} files, of which {len(absent)} are not beside it: "
            f"{', '.join(absent[:5])}. Download them too."
        )
    return tuple(file.parent / name for name in names)


def part_names(index: Path) -> tuple[str, ...]:
    """Return the names of the parts in an index.

    Raises:
      CheckpointError: the index is damaged, or leads out of its folder.
    """
    try:
        found = json.loads(index.read_text("utf-8"))["weight_map"].values()
        names = tuple(sorted(set(found)))
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not the index of a checkpoint: it has no valid weight_map.") from error
    if odd := [name for name in names if not isinstance(name, str) or Path(name).name != name or name in ("", "..")]:
        raise CheckpointError(
            f"{index} leads to {odd[0]!r}; the parts of a checkpoint must be in the folder of its index."
        )
    if not names:
        raise CheckpointError(f"{index} names no files.")
    return names
