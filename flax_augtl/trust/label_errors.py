"""Labels that are probably wrong, by confident learning (Northcutt, Jiang and Chuang, JAIR 2021).

The method is a few lines of arrays. cleanlab, which its authors publish, is not used: it brings pandas, whose import
takes longer than everything here, and its own filters find fewer wrong labels than the ranking below, of which the
length comes from the same estimate of how many labels are wrong (docs/results.md).
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class LabelErrors:
    """What out-of-fold probabilities say about the labels of n images.

    Attributes:
      suspected: bool [n], whether the label is probably wrong.
      suggestion: int64 [n], the most probable class if the label is suspected, else the label itself.
      score: float32 [n], one minus the probability of the label: high for a label that is probably wrong.
    """

    suspected: np.ndarray
    suggestion: np.ndarray
    score: np.ndarray

    def ranking(self) -> np.ndarray:
        """Return the positions of all images, int64 [n], by falling score, the suspected ones first."""
        return np.lexsort((np.arange(len(self.score)), -self.score, ~self.suspected))


def label_errors(probabilities: np.ndarray, labels: np.ndarray) -> LabelErrors:
    """Find labels that are probably wrong.

    As many labels as are estimated to be wrong are suspected: those with the smallest probability, unless the label is
    the most probable class.

    Args:
      probabilities: float [n, C], from heads that were not fitted on the image itself.
      labels: int [n].
    """
    score = 1 - probabilities[np.arange(len(labels)), labels]
    likeliest = probabilities.argmax(1)
    suspected = np.zeros(len(labels), bool)
    suspected[np.argsort(-score, kind="stable")[: estimated_errors(probabilities, labels)]] = True
    suspected &= likeliest != labels
    return LabelErrors(suspected, np.where(suspected, likeliest, labels).astype(np.int64), score.astype(np.float32))


def estimated_errors(probabilities: np.ndarray, labels: np.ndarray) -> int:
    """Return how many labels are probably wrong, from the confident joint of labels and true classes.

    A class is confident for an image if its probability is at least what it is on average for the images with that
    label. Each image counts for the most probable of its confident classes. The counts of each label are scaled to the
    number of its images.

    Args:
      probabilities: float [n, C].
      labels: int [n].
    """
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    threshold = np.where(counts > 0, np.bincount(labels, own, classes) / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= threshold, probabilities, -1.0)
    sure = confident.max(1) >= 0
    wrong = np.bincount(labels[sure & (confident.argmax(1) != labels)], minlength=classes)
    return round(float((wrong / np.maximum(np.bincount(labels[sure], minlength=classes), 1) * counts).sum()))
