"""Features of the images of a trained network's splits, and what is fitted to them."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import Examples, eval_batches
from flax_augtl.errors import UserError
from flax_augtl.models.augmented import AugmentedNetwork
from flax_augtl.pretrained import Preprocessing
from flax_augtl.runtime import signals
from flax_augtl.trust import familiarity, progress
from flax_augtl.trust.familiarity import Familiarity
from flax_augtl.trust.penultimate import penultimate_features

BATCH = 64
# Training images from which class means and their covariance are estimated: so many, or so many a class.
_TRAINING, _TRAINING_A_CLASS = 2000, 20


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network with its weights and its preprocessing (`penultimate.Trained`)."""

    network: AugmentedNetwork
    preprocessing: Preprocessing
    variables: Mapping[str, Any]


def features_of(
    trained: TrainedNetwork, examples: Examples, data: DataConfig, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the penultimate features and the logits of examples, in their order; `what` names them in the progress."""

    def batches() -> Iterator[np.ndarray]:
        for batch in eval_batches(
            examples,
            trained.preprocessing,
            data,
            batch_size=BATCH,
            image_size=trained.preprocessing.image_size,
        ):
            signals.raise_if_alone()
            yield batch["image"]

    total = -(-len(examples) // BATCH)
    shown = progress.shown(batches(), f"features of {what}", len(examples), BATCH) if total else batches()
    features, logits = penultimate_features(trained, shown)
    return features[: len(examples)], logits[: len(examples)]


def fit_familiarity(
    trained: TrainedNetwork, train: Examples, validation: Examples | None, data: DataConfig, step: int
) -> tuple[Familiarity | None, str]:
    """Fit the familiarity of a network.

    Args:
      trained: the network.
      train: its training examples; of many, evenly spaced ones of each class are taken.
      validation: its validation examples.
      data: `config.data`.
      step: the training step of the weights.

    Returns:
      The familiarity, None if it cannot be fitted; and a sentence about it.
    """
    if validation is None or not len(validation):
        return None, "No familiarity, so images of other classes are not marked: there is no validation split."
    some = familiarity_examples(train)
    try:
        found = familiarity.fit(
            features_of(trained, some, data, "training images"),
            some.labels,
            features_of(trained, validation, data, "validation images"),
            step,
        )
    except UserError as error:
        return None, f"No familiarity, so images of other classes are not marked: {error}."
    return found, found.note


def familiarity_examples(train: Examples) -> Examples:
    """Return the training examples by which the familiarity goes: of many, evenly spaced ones of each class."""
    return train.take(spaced(train.labels, max(_TRAINING, _TRAINING_A_CLASS * len(np.unique(train.labels)))))


def spaced(labels: np.ndarray, most: int) -> np.ndarray:
    """Return positions of at most so many examples, of each class in proportion to its number, evenly spaced."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    return np.sort(order[np.linspace(0, len(labels) - 1, most).astype(np.int64)])
