"""Writes a network as a safetensors file that says what it is, so that the file alone is enough to load it."""

import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from safetensors.numpy import save_file

from flax_augtl.paths import is_remote
from flax_augtl.pretrained.convert import to_state_dict
from flax_augtl.pretrained.description import NOTES, notes
from flax_augtl.pretrained.preprocessing import Preprocessing


def write_safetensors(
    path: str | os.PathLike,
    name: str,
    variables: Mapping[str, Any],
    preprocessing: Preprocessing,
    class_names: tuple[str, ...] = (),
    *,
    settings: Mapping[str, Any] | None = None,
    terms: Mapping[str, str] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
):
    """Write a network's variables in torchvision's names, whole or not at all, with notes in the metadata.

    Args:
        path: of the file.
        name: of the network.
        variables: {"params", "batch_stats"}.
        preprocessing: of these weights.
        class_names: of the classification layer.
        settings: fields of the module that differ from the network's usual ones, e.g. {"v1_stride": True}.
        terms: licence, attribution, …
        extra: further tensors, written beside as they are. A file that has some is not one that `load_source` takes.

    Raises:
        ValueError: the variables are not those of the network `name`; OSError: the file cannot be written.
    """
    said = notes(name, preprocessing, class_names, settings or {}, terms or {})
    tensors = {**to_state_dict(name, variables), **(extra or {})}
    metadata = {"format": "pt", NOTES: json.dumps(said)}  # PyTorch's own loaders look for "format".
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            save_file(tensors, os.path.join(folder, "file"), metadata)
            epath.Path(folder, "file").copy(path, overwrite=True)
        return
    partial = f"{os.fspath(path)}.partial"
    save_file(tensors, partial, metadata)
    os.replace(partial, path)
