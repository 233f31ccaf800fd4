"""Mark images that are probably of none of the classes, in the predictions of --mode=predict."""

from collections.abc import Sequence

import numpy as np

from flax_augtl.data.images import inputs
from flax_augtl.trust.familiarity import Familiarity
from flax_augtl.trust.penultimate import Trained, penultimate_features


class UnknownImages:
    """Adds the columns `familiarity`, in [0, 1], and `unknown`, which is yes below a limit and no otherwise."""

    def __init__(self, run: Trained, familiarity: Familiarity, below: float, *, batch_size: int = 32):
        """Take what predicts.

        Args:
          run: the run.
          familiarity: of its weights.
          below: images of lower familiarity are marked.
          batch_size: images per batch.
        """
        self._run, self._familiarity, self._below, self._size = run, familiarity, below, batch_size

    def columns(
        self, paths: Sequence[str], images: Sequence[np.ndarray], probabilities: np.ndarray
    ) -> list[dict[str, str]]:
        """Return the familiarity of each image, and whether it is marked."""
        shown = np.stack([inputs.network_input(image, self._run.preprocessing) for image in images])
        # Always the same size, so that the network compiles once.
        filled = np.concatenate([shown, np.zeros((self._size - len(shown), *shown.shape[1:]), np.uint8)])
        features, logits = penultimate_features(self._run, [filled])
        found = self._familiarity(features[: len(shown)], logits[: len(shown)])
        return [{"familiarity": f"{value:.4f}", "unknown": "yes" if value < self._below else "no"} for value in found]
