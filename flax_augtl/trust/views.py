"""Average probabilities over several views of an image: the image and its mirror image, or ten crops."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.data import Examples
from flax_augtl.errors import UserError
from flax_augtl.training import metrics
from flax_augtl.training.evaluation import Evaluation, fits

COUNTS = {"one": 1, "flip": 2, "ten_crop": 10}


def check(views: str) -> None:
    """Raise UserError if there are no such views."""
    if views not in COUNTS:
        raise UserError(f"--views={views} must be one of {', '.join(COUNTS)}.")


def evaluation_of_views(probabilities: Iterable[np.ndarray], examples: Examples, classes: int) -> Evaluation:
    """Evaluate a split with probabilities that are averaged over views.

    Args:
      probabilities: float32 [b, C] of one batch of examples after the other.
      examples: the split.
      classes: number of classes.

    Raises:
      UserError: several processes evaluate together.
    """
    if jax.process_count() > 1:
        raise UserError("--views=flip and --views=ten_crop evaluate in one process; start it without --coordinator.")
    kept, parts, start = [], [], 0
    keep = fits(len(examples), classes)
    for found in probabilities:
        labels = np.asarray(examples.labels[start : start + len(found)])
        start += len(found)
        # The softmax of these logits gives the probabilities again.
        logits = np.log(np.maximum(found, np.finfo(np.float32).tiny))
        losses = -logits[np.arange(len(labels)), labels]
        mask = np.ones(len(labels), np.float32)
        parts.append(metrics.evaluation_sums(*map(jnp.asarray, (logits, losses, labels, mask))))
        kept += [found] if keep else []
    return Evaluation(
        metrics.add(parts), np.asarray(examples.labels), np.concatenate(kept) if kept else None, examples.ids
    )
