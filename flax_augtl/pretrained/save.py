"""Writes a network as a safetensors file with a description, so that the file alone is enough to load it."""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.pretrained.convert import to_state_dict
from flax_augtl.pretrained.metadata import NOTES, notes
from flax_augtl.workdir import files


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
    weights: str = "float32",
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
      extra: further tensors, written beside them. `load_source` leaves those of a head out.
      weights: type of the tensors with two or more dimensions; vectors are float32.

    Raises:
      UserError: the variables do not belong to the network `name`, or the file cannot be written.
    """
    said = notes(name, preprocessing, class_names, settings or {}, terms or {})
    tensors = {
        tensor: value.astype(jnp.dtype(weights)) if value.ndim > 1 else value
        for tensor, value in {**to_state_dict(name, variables), **(extra or {})}.items()
    }
    metadata = {"format": "pt", NOTES: json.dumps(said)}  # PyTorch's own loaders look for "format".
    files.write_bytes(path, save(tensors, metadata))
