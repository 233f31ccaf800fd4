"""The evaluation of a network over the batches of a split."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import Examples, eval_batches
from flax_augtl.runtime import signals
from flax_augtl.training import metrics
from flax_augtl.training.compiled_steps import pmapped_eval_step
from flax_augtl.training.kept_features import KeptSplit
from flax_augtl.training.pmapped import CompiledStep, PmappedStep, replicate, split_over_devices
from flax_augtl.training.step_inputs import Images, KeptFeatures


def evaluate(
    network: Any,
    preprocessing: Any,
    variables: Any,
    examples: Examples,
    data: DataConfig,
    *,
    batch_size: int,
    each: Callable[[np.ndarray, np.ndarray], None] | None = None,
    kept: KeptSplit | None = None,
) -> dict[str, np.ndarray]:
    """Return the sums of `metrics.evaluation_sums` over all examples of a split.

    Args:
      network: the network.
      preprocessing: the evaluation transform of its images.
      variables: the network's variables.
      examples: the split.
      data: `config.data`.
      batch_size: images per batch over all devices of all processes, rounded up to a multiple of the devices.
      each: called for every batch of all processes with the positions in `examples` int [b] and the probabilities
        float32 [b, C], without padding, in any order.
      kept: the kept features of the split; without them, its images are decoded.
    """
    devices = jax.local_device_count()
    batch_size = math.ceil(batch_size / jax.device_count()) * jax.device_count()
    if kept is None:
        inputs, pool = Images(), None
        found = eval_batches(
            examples, preprocessing, data, batch_size=batch_size, image_size=preprocessing.image_size, **share()
        )
    else:
        inputs, pool = KeptFeatures(kept.start), kept.pool
        found = kept.evaluation_batches(examples, batch_size=batch_size, **share())

    def batches() -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(found):
            signals.raise_if_alone()
            local = number * len(batch["label"]) + np.arange(len(batch["label"]), dtype=np.int32)
            # Also without `each`, so that all evaluations share one compilation.
            place = (local * jax.process_count() + jax.process_index()).astype(np.int32)
            read = {name: batch[name] for name in ("image", "inputs", "index") if name in batch}
            yield split_over_devices({**read, "label": batch["label"], "mask": batch["mask"], "place": place}, devices)

    def real(places: np.ndarray, probabilities: np.ndarray) -> None:
        if each is not None:
            inside = places < len(examples)
            each(places[inside], probabilities[inside])

    step = pmapped_eval_step(network, preprocessing, inputs)
    return metrics.add(batch_sums(step, replicate(variables), batches(), pool, real))


def batch_sums(
    step: PmappedStep,
    variables: Any,
    batches: Iterable[Any],
    pool: Any,
    each: Callable[[np.ndarray, np.ndarray], None] | None,
) -> Iterator[dict[str, Any]]:
    """Yield the sums of each batch.

    Args:
      step: from `pmapped_eval_step`.
      variables: of the network, on the devices.
      batches: of this process, split over its devices.
      pool: what the batches have indices into, if they do.
      each: called for each batch with `place` and `probabilities` of the global batch; None if batches have no `place`.
    """
    compiled: CompiledStep | None = None
    for batch in batches:
        arguments = variables, batch, pool
        compiled = compiled or step.compiled(*arguments)
        found = compiled(*arguments)
        if each is not None:
            each(np.asarray(found.pop("place")), np.asarray(found.pop("probabilities")))
        yield found


def share() -> dict[str, int]:
    """Return which part of every global batch this process reads."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}
