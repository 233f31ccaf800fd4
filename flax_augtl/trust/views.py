"""Average probabilities over several views of an image: the image and its mirror image, or ten crops."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.data import Examples
from flax_augtl.data.images import inputs
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.errors import UserError
from flax_augtl.training import metrics
from flax_augtl.training.evaluation import Evaluation, fits
from flax_augtl.trust import progress

COUNTS = {"one": 1, "flip": 2, "ten_crop": 10}


def check(views: str) -> None:
    """Raise UserError if there are no such views."""
    if views not in COUNTS:
        raise UserError(f"--views={views} must be one of {', '.join(COUNTS)}.")


def views_of(image: inputs.Input, preprocessing: Preprocessing, views: str) -> np.ndarray:
    """Return the views of an image, uint8 [S, S, 3] for `one`, else [V, S, S, 3].

    Args:
      image: a uint8 array [H, W, 3], a Pillow image, or a path.
      preprocessing: the evaluation transform; `ten_crop` takes its crops from the resized image before the centre crop.
      views: `one`, `flip` or `ten_crop`.
    """
    check(views)
    if views == "one":
        return inputs.network_input(image, preprocessing)
    if views == "flip":
        crops = inputs.network_input(image, preprocessing)[None]
    else:
        crops = inputs.network_crops(image, preprocessing)
    return np.concatenate([crops, crops[:, :, ::-1]])


def averaged(step: Callable[..., Any], views: str) -> Callable[..., Any]:
    """Return a function of variables and views, uint8 [N, V, S, S, 3], that averages what `step` says of each view.

    Args:
      step: (variables, uint8 [N, S, S, 3]) -> probabilities [N, C].
      views: `one`, for which this is `step` itself, `flip` or `ten_crop`.
    """
    check(views)
    if views == "one":
        return step

    def apply(variables: Any, batch: np.ndarray) -> np.ndarray:
        found = np.asarray(step(variables, batch.reshape(-1, *batch.shape[2:])))
        return found.reshape(len(batch), -1, found.shape[-1]).mean(1)

    return apply


def evaluation_of_views(
    step: Callable[..., Any],
    variables: Any,
    preprocessing: Preprocessing,
    examples: Examples,
    classes: int,
    views: str,
    *,
    batch_size: int,
) -> Evaluation:
    """Evaluate a split with probabilities that are averaged over views.

    Args:
      step: (variables, uint8 [N, S, S, 3]) -> probabilities [N, C].
      variables: its variables.
      preprocessing: the evaluation transform.
      examples: the split.
      classes: number of classes.
      views: `flip` or `ten_crop`.
      batch_size: images per batch.

    Raises:
      UserError: several processes evaluate together.
    """
    if jax.process_count() > 1:
        raise UserError(f"--views={views} evaluates in one process; start it without --coordinator.")
    apply, kept, parts = averaged(step, views), [], []
    starts = range(0, len(examples), batch_size)
    for start in progress.shown(starts, f"evaluation with {views}", len(examples), batch_size):
        places = np.arange(start, min(start + batch_size, len(examples)))
        batch = [views_of(examples.source[int(examples.indices[i])], preprocessing, views) for i in places]
        padded = batch + [np.zeros_like(batch[0])] * (min(batch_size, len(examples)) - len(batch))
        found = np.asarray(apply(variables, np.stack(padded)), np.float32)[: len(batch)]
        labels = np.asarray(examples.labels[places])
        # The softmax of these logits gives the probabilities again.
        logits = np.log(np.maximum(found, np.finfo(np.float32).tiny))
        losses = -logits[np.arange(len(labels)), labels]
        mask = np.ones(len(labels), np.float32)
        parts.append(metrics.evaluation_sums(*map(jnp.asarray, (logits, losses, labels, mask))))
        kept.append(found)
    probabilities = np.concatenate(kept) if fits(len(examples), classes) and kept else None
    return Evaluation(metrics.add(parts), np.asarray(examples.labels), probabilities, examples.ids)
