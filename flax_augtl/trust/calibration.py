"""Calibration: one temperature that makes a network's probabilities agree with how often it is right.

Logits are divided by the temperature before the softmax, which changes every probability and no prediction. Probabilities
are enough for that, since their logarithms are the logits up to a constant.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from flax_augtl.errors import UserError
from flax_augtl.training.metrics import BINS
from flax_augtl.workdir import files

# A temperature beyond these bounds says that the data do not determine one.
LOWEST, HIGHEST = 0.05, 20.0
_FOLDS = 5
# Of probabilities: evenly spaced images are enough to fit one number.
_MOST = 2**24
# The smallest normal float32: devices round smaller probabilities to zero.
_TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A fitted temperature.

    Attributes:
      temperature: what logits are divided by before the softmax; None if the run is not calibrated.
      step: the training step of the weights that it belongs to.
      images: the number of validation images that it was fitted on.
      note: a sentence: how it was fitted, or why not.
    """

    temperature: float | None
    step: int
    images: int
    note: str

    def to_json(self) -> dict[str, Any]:
        """Return the contents of the file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Any, where: Any = "calibration.json") -> "Calibration":
        """Return what `to_json` described.

        Raises:
          UserError: the values are none of a calibration.
        """
        fine = (
            isinstance(values, Mapping)
            and {field.name for field in dataclasses.fields(cls)} <= set(values)
            and isinstance(values["step"], int)
            and isinstance(values["images"], int)
            and (
                values["temperature"] is None
                or isinstance(values["temperature"], (int, float))
                and math.isfinite(values["temperature"])
                and values["temperature"] > 0
            )
        )
        if not fine:
            raise UserError(
                f"{where} describes no calibration. Remove the file: the run then predicts without a calibration."
            )
        temperature = values["temperature"]
        return cls(
            None if temperature is None else float(temperature), values["step"], values["images"], str(values["note"])
        )


def temperature_of(workdir: epath.PathLike, step: int) -> float | None:
    """Return the temperature of the weights of a step of a run; None if those are not calibrated.

    Raises:
      UserError: calibration.json is damaged.
    """
    found = read(workdir)
    return found.temperature if found and found.step == step else None


def read(workdir: epath.PathLike) -> Calibration | None:
    """Return the calibration of a run; None if there is none.

    Raises:
      UserError: calibration.json is damaged.
    """
    path = epath.Path(workdir) / files.CALIBRATION
    return Calibration.from_json(files.read_json(path), path) if path.exists() else None


def sentence(workdir: epath.PathLike, step: int, probabilities: np.ndarray | None, labels: np.ndarray) -> str:
    """Return what the calibration of a run changes on the images of a split, for people."""
    found = read(workdir)
    if found is None:
        return "Not calibrated: probabilities are the softmax of the logits as they are."
    if found.temperature is None:
        return found.note
    if found.step != step:
        return f"Not calibrated: the temperature was fitted to the weights of step {found.step}."
    values = calibrated_metrics(probabilities, labels, found.temperature)
    changed = ", ".join(
        f"{name} {values[key]:.4f}"
        for name, key in (("loss", "loss_calibrated"), ("calibration_error", "calibration_error_calibrated"))
        if values[key] is not None
    )
    return f"calibrated with temperature {found.temperature:.3g}{': ' * bool(changed)}{changed}"


def fit(probabilities: np.ndarray | None, labels: np.ndarray, step: int) -> Calibration:
    """Fit the temperature that minimises the log-loss.

    If the optimum is at one of the bounds, or no image is classified wrongly, so that it would be 0, then the
    temperature is 1 unless another one has a lower log-loss in a cross-validation.

    Args:
      probabilities: float32 [N, C] of validation images; None if they were too many to keep.
      labels: int [N].
      step: the training step of the weights.
    """
    if probabilities is None:
        return Calibration(None, step, len(labels), "Not calibrated: the probabilities are too many to keep.")
    if not np.isfinite(probabilities).all():
        return Calibration(None, step, len(labels), "Not calibrated: some probabilities are not finite.")
    rows = np.arange(len(labels))
    if probabilities.size > _MOST:
        rows = np.unique(np.linspace(0, len(labels) - 1, max(1000, _MOST // probabilities.shape[1])).astype(np.int64))
    logits, labels = log_probabilities(probabilities[rows]), np.asarray(labels)[rows]
    images = f"{len(labels)} validation image{'s' * (len(labels) != 1)}"
    right = (logits.argmax(axis=1) == labels).all()
    found = optimum(logits, labels)
    if LOWEST * 1.001 < found < HIGHEST * 0.999 and not right:
        return Calibration(found, step, len(labels), f"Fitted to the log-loss of {images}.")
    why = "no validation image is classified wrongly" if right else "the log-loss has no minimum in reach"
    found = optimum(logits, labels, smoothed=True)
    if _validated(logits, labels) < log_loss(logits, labels):
        return Calibration(
            found,
            step,
            len(labels),
            f"Fitted to {images} with smoothed labels, since {why}; cross-validation confirms it.",
        )
    return Calibration(
        1.0,
        step,
        len(labels),
        f"The temperature stays 1, since {why} ({images}) and no other is better in a cross-validation.",
    )


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Return logarithms, float64 [N, C]; those of probabilities that were rounded to zero are finite as well."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), _TINY))


def log_loss(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean log-loss in nats of logits [N, C] that are divided by a temperature."""
    return float(-_log_softmax(logits / temperature)[np.arange(len(labels)), labels].mean())


def optimum(logits: np.ndarray, labels: np.ndarray, *, smoothed: bool = False) -> float:
    """Return the temperature with the lowest log-loss, in [`LOWEST`, `HIGHEST`], by Newton's method on its logarithm.

    Args:
      logits: float64 [N, C].
      labels: int [N].
      smoothed: count one further image, which is of each class with equal probability: without an error the minimum
        would be at 0.
    """
    count, classes = logits.shape
    targets = np.zeros(logits.shape)
    targets[np.arange(count), labels] = 1.0
    if smoothed:
        targets = (targets * count + 1.0 / classes) / (count + 1.0)
    wanted = (targets * logits).sum(axis=1).mean()
    low, high = math.log(LOWEST), math.log(HIGHEST)
    at = 0.0
    for _ in range(100):
        scale = math.exp(-at)
        shares = np.exp(_log_softmax(scale * logits))
        means = (shares * logits).sum(axis=1)
        # The log-loss is convex in the inverse temperature; `slope` is its derivative there.
        slope = means.mean() - wanted
        curvature = ((shares * logits**2).sum(axis=1) - means**2).mean()
        low, high = (at, high) if slope > 0 else (low, at)
        # d/dt and d²/dt² of the loss at t = log T.
        first, second = -scale * slope, scale**2 * curvature + scale * slope
        step = -first / second if second > 0 else math.inf
        new = at + step
        if not low < new < high:  # Newton's step leaves the bracket: halve that.
            new = (low + high) / 2
        if abs(new - at) < 1e-10 or high - low < 1e-10:
            at = new
            break
        at = new
    return float(np.clip(math.exp(at), LOWEST, HIGHEST))


def _validated(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the cross-validated log-loss of temperatures that are fitted with smoothed labels."""
    folds = min(_FOLDS, len(labels))
    if folds < 2:
        return math.inf
    parts = np.arange(len(labels)) % folds
    total = 0.0
    for fold in range(folds):
        held = parts == fold
        total += log_loss(logits[held], labels[held], optimum(logits[~held], labels[~held], smoothed=True)) * held.sum()
    return total / len(labels)


def calibrated(probabilities: np.ndarray, temperature: float | None) -> np.ndarray:
    """Return probabilities float32 [N, C] at a temperature, with the same likeliest classes; as given without one."""
    if temperature is None or temperature == 1.0 or not len(probabilities):
        return probabilities
    found = np.exp(_log_softmax(log_probabilities(probabilities) / temperature)).astype(np.float32)
    # Values that differ in their last digit may be rounded to the same one.
    rows, before = np.arange(len(found)), probabilities.argmax(axis=1)
    ties = found.argmax(axis=1) != before
    found[rows[ties], before[ties]] = np.nextafter(found[ties].max(axis=1), np.float32(2))
    return found


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error with the bins of `training.metrics`."""
    return float(
        sum(abs(row.accuracy - row.confidence) * row.count for row in reliability(probabilities, labels)) / len(labels)
    )


@dataclasses.dataclass(frozen=True)
class Bin:
    """Images whose confidence lies in a range: how many, their mean confidence, and the share that is right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> list[Bin]:
    """Return the bins that have images, 15 of equal width over the confidence."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    # Open on the left, in float32, as the bins of `training.metrics`.
    index = np.clip(np.ceil(confidence.astype(np.float32) * np.float32(BINS)).astype(int) - 1, 0, BINS - 1)
    return [
        Bin(
            one / BINS,
            (one + 1) / BINS,
            int((index == one).sum()),
            float(confidence[index == one].mean(dtype=np.float64)),
            float(right[index == one].mean()),
        )
        for one in np.unique(index).tolist()
    ]


def calibrated_metrics(
    probabilities: np.ndarray | None, labels: np.ndarray, temperature: float | None
) -> dict[str, float | None]:
    """Return `loss_calibrated` and `calibration_error_calibrated`; None for each without a temperature."""
    if probabilities is None or temperature is None:
        return {"loss_calibrated": None, "calibration_error_calibrated": None}
    return {
        "loss_calibrated": log_loss(log_probabilities(probabilities), labels, temperature),
        "calibration_error_calibrated": calibration_error(calibrated(probabilities, temperature), labels),
    }


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
