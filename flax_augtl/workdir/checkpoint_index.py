"""The index of the arrays in a checkpoint. Orbax writes it last; without it, no array can be read."""

import os
from typing import Any

import tensorstore
from etils import epath
from flax import traverse_util

from flax_augtl.errors import UserError
from flax_augtl.runtime.paths import is_remote

_INDEX = "manifest.ocdbt"
_PARTS = "ocdbt.process_"


def names_of(tree: Any) -> set[str]:
    """Return the names under which Orbax stores the arrays of a nested dictionary, such as `params.fc.kernel`."""
    return {
        ".".join(map(str, path)) for path, leaf in traverse_util.flatten_dict(tree).items() if hasattr(leaf, "shape")
    }


def check(item: epath.Path, names: set[str]) -> None:
    """Check that the index of an item of a checkpoint lists every array.

    Args:
      item: directory of the item, such as `checkpoints/20/network`.
      names: names of the arrays, see `names_of`.

    Raises:
      UserError: arrays are missing; the message names the first one.
    """
    base = f"{item}/" if is_remote(item) else {"driver": "file", "path": f"{os.fspath(item)}/"}
    keys = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result().list().result()
    # A key is the name of an array, a slash, and the name of a chunk or of the array's metadata.
    listed = {key.decode().rpartition("/")[0] for key in keys}
    if missing := sorted(names - listed):
        raise UserError(
            f"{item} was written without {len(missing)} of its {len(names)} arrays, among them {missing[0]}."
        )


def missing_index(directory: epath.Path) -> str:
    """Return a phrase about the first item of a checkpoint that has arrays but no index; otherwise an empty string."""
    for item in sorted(directory.iterdir()):
        if item.is_dir():
            inside = {path.name for path in item.iterdir()}
            if _INDEX not in inside and any(name.startswith(_PARTS) for name in inside):
                return f"{item.name} has no {_INDEX}, without which its arrays cannot be found"
    return ""
