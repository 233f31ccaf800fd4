"""What the report of a training or an evaluation shows."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from flax_augtl.training.evaluation import Evaluation
from flax_augtl.trust import calibration
from flax_augtl.trust.calibration import Calibration
from flax_augtl.trust.inspection import Inspection


@dataclasses.dataclass(frozen=True, eq=False)
class FamiliarImages:
    """How familiar some images of the split are.

    Attributes:
      rows: int [M], their positions in the split.
      values: float64 [M].
      below: images of lower familiarity count as unknown.
      validation: number of validation images that it goes by.
    """

    rows: np.ndarray
    values: np.ndarray
    below: float
    validation: int


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What a report shows.

    Attributes:
      name: of the run.
      split: `train`, `val`, `test`, or `all` for images of another folder.
      step: of the weights.
      evaluated: the evaluation of the split, before the calibration.
      class_names: names of the classes.
      calibration: of these weights; None if there is none.
      familiar: None if the run has no familiarity.
      familiar_note: a sentence about it.
      image: returns an image of the split by position, uint8 [H, W, 3]; None if they cannot be read.
      confusion: the PNG file of the confusion matrix, if it has been drawn already.
      config: the configuration, as JSON values.
      source: the contents of source.json.
      counts: number of images of each split of the run.
      history: the rows of metrics.jsonl.
      seconds: the time that the training took; None if it is not known.
      steps: the number of steps of the training; None if it is not known.
      parameters: the number of parameters of the network.
      versions: of the libraries, and the device.
      notes: sentences about the data.
      overlays: returns images of the split by position, as the network reads them, each beside what speaks for a class in
        it: (positions int [n], classes int [n]) -> n images; None if they cannot be computed.
      inspection: what is suspicious about some of the labels; None if it was not looked for.
      inspection_note: a sentence about it.
    """

    name: str
    split: str
    step: int
    evaluated: Evaluation
    class_names: Sequence[str]
    calibration: Calibration | None
    familiar: FamiliarImages | None
    familiar_note: str
    image: Callable[[int], np.ndarray] | None
    confusion: bytes | None
    config: Mapping[str, Any]
    source: Mapping[str, Any]
    counts: Mapping[str, int]
    history: Sequence[Mapping[str, Any]]
    seconds: float | None
    steps: int | None
    parameters: int
    versions: Mapping[str, str]
    notes: Sequence[str] = ()
    overlays: Callable[[np.ndarray, np.ndarray], Sequence[Image.Image]] | None = None
    inspection: Inspection | None = None
    inspection_note: str = ""

    @property
    def temperature(self) -> float | None:
        """The temperature of the weights; None without a calibration."""
        return self.calibration.temperature if self.calibration else None

    @property
    def probabilities(self) -> np.ndarray | None:
        """The calibrated probabilities; None if they were too many to keep."""
        if self.evaluated.probabilities is None:
            return None
        return calibration.calibrated(self.evaluated.probabilities, self.temperature)

    @property
    def values(self) -> dict[str, Any]:
        """All metrics of the split, those after the calibration included, if there is one."""
        more = calibration.calibrated_metrics(self.evaluated.probabilities, self.evaluated.labels, self.temperature)
        return {**self.evaluated.metrics, **{key: value for key, value in more.items() if value is not None}}
