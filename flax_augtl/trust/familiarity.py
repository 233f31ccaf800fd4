"""Familiarity: how many validation images look less like the training images than this one."""

import dataclasses
import io
from typing import Any

import numpy as np
from etils import epath

from flax_augtl.errors import UserError
from flax_augtl.trust import distances
from flax_augtl.workdir import files

# By default, images below it are marked as unknown: about one in twenty images of the classes.
UNKNOWN_BELOW = 0.05
# With fewer validation images, the value is told to be coarse.
FEW = 40
_KINDS = {kind.NAME: kind for kind in (distances.Mahalanobis, distances.Neighbours, distances.Energy)}


@dataclasses.dataclass(frozen=True, eq=False)
class Familiarity:
    """What is needed to tell how familiar an image is.

    Attributes:
      distance: how far an image is from the training images.
      validation: the distances of the validation images, float64 [n], ascending.
      step: the training step of the weights.
    """

    distance: distances.Distance
    validation: np.ndarray
    step: int

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the familiarity of images, float64 [N].

        It is (k + 1) / (n + 1) for k of n validation images that are farther from the training images. So it is above 0;
        and of images like the validation images, a share of at most t is below t.
        """
        far = self.distance(features, logits)
        count = len(self.validation)
        farther = count - np.searchsorted(self.validation, far, side="right")
        return np.where(np.isfinite(far), (farther + 1) / (count + 1), 1 / (count + 1))

    @property
    def note(self) -> str:
        """A sentence: how many validation images it goes by, and that they are few, if they are."""
        count = len(self.validation)
        text = f"Familiarity goes by {count} validation image{'s' * (count != 1)}"
        if count < FEW:
            return f"{text}: fewer than {FEW}, so it is coarse (steps of {1 / (count + 1):.3f})."
        return f"{text}."

    def to_bytes(self) -> bytes:
        """Return the contents of the file."""
        kept = {field.name: getattr(self.distance, field.name) for field in dataclasses.fields(self.distance)}  # pyright: ignore[reportArgumentType]  # All three are dataclasses.
        content = io.BytesIO()
        np.savez_compressed(
            content, kind=np.array(_name(self.distance)), validation=self.validation, step=np.array(self.step), **kept
        )
        return content.getvalue()


def _name(distance: Any) -> str:
    return type(distance).NAME


def fit(
    training: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray],
    step: int,
    kind: str = distances.Mahalanobis.NAME,
) -> Familiarity:
    """Fit how far images are from the training images, and how far the validation images are.

    Args:
      training: features float32 [N, D] and logits of training images.
      labels: int [N], their classes.
      validation: features and logits of the validation images.
      step: the training step of the weights.
      kind: the name of a distance.

    Raises:
      UserError: it cannot be fitted; the message says why.
    """
    if not len(validation[0]):
        raise UserError("there is no validation image")
    if not all(distances.is_finite(values) for values in (*training, *validation)):
        raise UserError("some features are not finite")
    if kind == distances.Mahalanobis.NAME:
        distance: distances.Distance = distances.fit_mahalanobis(training[0], labels)
    elif kind == distances.Neighbours.NAME:
        distance = distances.fit_neighbours(training[0])
    else:
        distance = distances.Energy()
    return Familiarity(distance, np.sort(distance(*validation)), step)


def read(workdir: epath.PathLike, step: int) -> Familiarity | None:
    """Return the familiarity of the weights of a step of a run; None if there is none of these.

    Raises:
      UserError: the file is damaged.
    """
    path = epath.Path(workdir) / files.FAMILIARITY
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            values = {name: found[name] for name in found.files}
        if int(values.pop("step")) != step:
            return None
        kind, validation = _KINDS[str(values.pop("kind"))], values.pop("validation")
        kept = {name: value if value.ndim else value.item() for name, value in values.items()}
        return Familiarity(kind(**kept), validation, step)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}. Remove it: --mode=predict then writes no familiarity.") from error
