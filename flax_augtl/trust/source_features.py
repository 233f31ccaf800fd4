"""Penultimate features of a source network: what its classification layer reads, before any training on the labels."""

import functools
from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import Examples, eval_batches
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.models.base import SourceNetwork
from flax_augtl.trust import progress


@functools.lru_cache(maxsize=8)
def _compiled(model: Any, preprocessing: Preprocessing) -> Any:
    stop = len(model.groups) - (model.groups[-1] == model.CLASSIFIER)
    return jax.jit(lambda variables, images: model.apply(variables, preprocessing.normalise(images), 0, stop))


def source_features(
    model: SourceNetwork,
    variables: Mapping[str, Any],
    preprocessing: Preprocessing,
    examples: Examples,
    data: DataConfig,
    *,
    batch_size: int = 32,
    what: str = "features of the source weights",
) -> np.ndarray:
    """Return the penultimate features of some examples in their evaluation view, float32 [n, C].

    Args:
      model: the source network, with or without its classification layer.
      variables: its variables.
      preprocessing: the evaluation transform of its images.
      examples: the examples.
      data: config.data, for the number of threads and workers.
      batch_size: images per batch.
      what: the name of this pass in its progress.
    """
    apply = _compiled(cast(Any, model), preprocessing)  # Type checkers take Flax modules for unhashable.
    batches = eval_batches(examples, preprocessing, data, batch_size=batch_size, image_size=preprocessing.image_size)
    found = [np.zeros((0, 0), np.float32)]
    for batch in progress.shown(batches, what, len(examples), batch_size):
        found.append(np.asarray(apply(variables, batch["image"]), np.float32))
    return np.concatenate(found[1:] or found)[: len(examples)]
