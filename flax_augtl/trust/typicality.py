"""How like its own class an image is, by its nearest neighbours among the images with the same label."""

import numpy as np

NEIGHBOURS = 5
_BLOCK = 1024  # Rows that are compared at once.
# In units of the spread within the class; of a normal distribution, three of 100 000 are so far below.
UNLIKE = -4.0


def normalised(features: np.ndarray) -> np.ndarray:
    """Return features of length 1, float32 [n, d]."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def typicality(features: np.ndarray, labels: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Return how like its class every image is, float32 [n]; below `UNLIKE`, it is unlike its class.

    It is the mean cosine similarity to the nearest images with the same label, less the median of that class, in units
    of its spread. Classes whose images are much more alike than those of most count as if they were as varied as the
    median class. An image that is alone in its class has the value 0.

    Args:
      features: float [n, d].
      labels: int [n].
      neighbours: number of nearest images.
    """
    unit = normalised(features)
    near = np.zeros(len(unit), np.float32)
    spreads: dict[int, float] = {}
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            continue
        k = min(neighbours, len(members) - 1)
        for start in range(0, len(members), _BLOCK):
            some = members[start : start + _BLOCK]
            similar = unit[some] @ unit[members].T
            similar[np.arange(len(some)), start + np.arange(len(some))] = -np.inf
            near[some] = np.sort(np.partition(similar, -k, axis=1)[:, -k:], axis=1).mean(1)
        near[members] -= np.median(near[members])
        below = near[members][near[members] < 0]
        # As for a normal distribution; of the lower half only, because the distribution is skewed.
        spreads[label] = -1.4826 * float(np.median(below)) if len(below) else 0.0
    usual = float(np.median(list(spreads.values()))) if spreads else 0.0
    scale = np.array([max(spreads.get(label, 0.0), usual, 1e-6) for label in range(labels.max(initial=0) + 1)])
    return (near / scale[labels]).astype(np.float32)


def nearest(features: np.ndarray, rows: np.ndarray, among: np.ndarray) -> int | None:
    """Return the position among `among`, int [m], that is most like the images `rows`, int [k]; None if there is none.

    Args:
      features: float32 [n, d] of length 1, from `normalised`.
      rows: positions of the images in question, which are left out.
      among: positions to choose from.
    """
    among = np.setdiff1d(among, rows)
    if not len(among):
        return None
    return int(among[np.argmax(features[among] @ features[rows].mean(0))])
