"""Labels that are probably wrong, by confident learning (Northcutt, Jiang and Chuang, JAIR 2021).

The method is a few lines of arrays. cleanlab, which its authors publish, gives the same suspects; it is not used,
because it brings pandas, whose import alone takes longer than everything here.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class LabelErrors:
    """What out-of-fold probabilities say about the labels of n images.

    Attributes:
      suspected: bool [n], whether the label is probably wrong.
      suggestion: int64 [n], the class that the image probably belongs to; the label itself if nothing speaks against
        it.
      score: float32 [n] in [0, 1], high for a label that is probably wrong.
    """

    suspected: np.ndarray
    suggestion: np.ndarray
    score: np.ndarray

    def ranking(self) -> np.ndarray:
        """Return the positions of all images, int64 [n]: the suspected ones first, each kind by falling score."""
        return np.lexsort((np.arange(len(self.score)), -self.score, ~self.suspected))


def label_errors(probabilities: np.ndarray, labels: np.ndarray) -> LabelErrors:
    """Find labels that are probably wrong.

    A class is confident for an image if its probability is at least what it is on average for the images with that
    label. A label is suspected if it is not the most probable of the confident classes.

    Args:
      probabilities: float [n, C], from heads that were not fitted on the image itself.
      labels: int [n].
    """
    rows, classes = np.arange(len(labels)), probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    own = probabilities[rows, labels].astype(np.float64)
    threshold = np.where(counts > 0, np.bincount(labels, own, classes) / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= threshold, probabilities, -1.0)
    suspected = (confident.max(1) >= 0) & (confident.argmax(1) != labels)
    others = probabilities.copy()
    others[rows, labels] = -1.0
    suggestion = np.where(suspected, confident.argmax(1), labels)
    # Half of the margin between the likeliest other class and the label, from 0 to 1.
    score = (1 + others.max(1) - own) / 2
    return LabelErrors(suspected, suggestion.astype(np.int64), score.astype(np.float32))
