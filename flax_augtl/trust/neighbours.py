"""The training images that are most like an image, by the cosine similarity of penultimate features."""

import dataclasses
import io
import zipfile
from collections.abc import Sequence

import numpy as np
from etils import epath

from flax_augtl.trust.typicality import normalised
from flax_augtl.workdir import files

NAME = "neighbours.npz"
MOST_BYTES = 2**30  # Larger files are not kept in the run directory.
_BLOCK = 65_536  # Training images that are compared at once.


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingFeatures:
    """The penultimate features of the training images of a run.

    Attributes:
      step: the step of the weights.
      ids: the ids of the images.
      labels: int64 [n].
      features: float16 [n, d] of length 1.
    """

    step: int
    ids: Sequence[str]
    labels: np.ndarray
    features: np.ndarray

    def nearest(self, features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions int64 [m, k] of the most similar images, and the similarities float32 [m, k].

        Args:
          features: float [m, d] of images.
          count: how many images to return; fewer if there are not as many.
        """
        unit, count = normalised(features), min(count, len(self.ids))
        places, similar = np.zeros((len(unit), 0), np.int64), np.zeros((len(unit), 0), np.float32)
        for start in range(0, len(self.ids), _BLOCK):
            part = unit @ self.features[start : start + _BLOCK].astype(np.float32).T
            similar = np.concatenate([similar, part], axis=1)
            numbers = np.arange(start, start + part.shape[1])
            places = np.concatenate([places, np.broadcast_to(numbers, part.shape)], axis=1)
            order = np.argsort(-similar, axis=1, kind="stable")[:, :count]
            similar, places = (np.take_along_axis(values, order, axis=1) for values in (similar, places))
        return places, similar

    def write(self, path: epath.Path) -> None:
        """Write a file that `read` reads, unless it would be larger than `MOST_BYTES`."""
        if self.features.nbytes > MOST_BYTES:
            return
        content = io.BytesIO()
        np.savez(
            content,
            step=np.array(self.step),
            ids=np.array([name.encode("utf-8", "surrogateescape") for name in self.ids], np.bytes_),
            labels=self.labels,
            features=self.features,
        )
        files.write_bytes(path, content.getvalue())


def training_features(step: int, ids: Sequence[str], labels: np.ndarray, features: np.ndarray) -> TrainingFeatures:
    """Return training features from float [n, d] of any length."""
    return TrainingFeatures(step, tuple(ids), np.asarray(labels, np.int64), normalised(features).astype(np.float16))


def read(path: epath.Path, step: int) -> TrainingFeatures | None:
    """Return what was written for these weights; None if there is no such file, or it is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            if int(found["step"]) != step or found["features"].ndim != 2:
                return None
            ids = tuple(name.decode("utf-8", "surrogateescape") for name in found["ids"].tolist())
            kept = TrainingFeatures(step, ids, found["labels"].astype(np.int64), found["features"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return kept if len(kept.ids) == len(kept.labels) == len(kept.features) > 0 else None
