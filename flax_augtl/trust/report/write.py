"""Write the report of a training or an evaluation from a run directory and an evaluation."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import Examples, eval_batches
from flax_augtl.runtime.versions import versions
from flax_augtl.training.evaluation import Evaluation
from flax_augtl.trust import calibration, overlays
from flax_augtl.trust.evidence import evidence_of
from flax_augtl.trust.familiarity import UNKNOWN_BELOW, Familiarity
from flax_augtl.trust.report.page import page
from flax_augtl.trust.report.subject import FamiliarImages, Subject
from flax_augtl.trust.thumbnails import SIDE
from flax_augtl.trust.trained import BATCH, TrainedNetwork, features_of
from flax_augtl.workdir import files
from flax_augtl.workdir.description import read_description, read_result, read_splits

# Of a split: so many images are looked at for the section on unknown images.
_LOOKED_AT = 1000


def write_report(path: epath.Path, subject: Subject) -> None:
    """Write a report, whole or not at all.

    Raises:
      CannotWrite: the file cannot be written.
    """
    # Names of files need not be valid Unicode.
    files.write_text(path, page(subject).encode("utf-8", "backslashreplace").decode())


def name_of(split: str, step: int | None = None) -> str:
    """Return the name of the file for a split; give `step` if the weights are not the best ones."""
    if split == "test" and step is None:
        return files.REPORT
    stem, _, ending = files.REPORT.rpartition(".")
    return f"{stem}_{split}{'' if step is None else f'_step{step}'}.{ending}"


def subject_of(
    workdir: epath.Path,
    trained: TrainedNetwork,
    step: int,
    split: str,
    examples: Examples,
    evaluated: Evaluation,
    *,
    data: DataConfig,
    familiarity: Familiarity | None,
    familiar_note: str,
    drawn: bool = False,
    notes: Sequence[str] = (),
) -> Subject:
    """Return what a report shows.

    Args:
      workdir: the run directory; what it says is read from there.
      trained: the network.
      step: of its weights.
      split: the name of the split.
      examples: the split.
      evaluated: its evaluation, before the calibration.
      data: `config.data`.
      familiarity: of the weights; None if there is none.
      familiar_note: a sentence about it.
      drawn: whether the run directory has the confusion matrix of this evaluation as an image.
      notes: sentences about the data.
    """
    description, result = read_description(workdir), read_result(workdir)
    found = calibration.read(workdir)
    splits = read_splits(workdir / files.SPLITS) if (workdir / files.SPLITS).exists() else {}
    history = files.read_metrics(workdir)
    confusion = workdir / f"confusion_{split}.png"
    seconds = (result or {}).get("seconds")

    def image(row: int) -> np.ndarray:
        return np.asarray(examples.source[int(examples.indices[row])])

    def drawn_over(rows: np.ndarray, classes: np.ndarray) -> list[Image.Image]:
        batches = eval_batches(
            examples.take(rows),
            trained.preprocessing,
            data,
            batch_size=BATCH,
            image_size=trained.preprocessing.image_size,
        )
        images = np.concatenate([batch["image"] for batch in batches])[: len(rows)]
        maps = evidence_of(trained, images, classes, BATCH)
        # Tiny images are magnified first, so that the map on top of them is smooth.
        scale = max(1, SIDE // images.shape[1])
        images = images.repeat(scale, axis=1).repeat(scale, axis=2)
        return [overlays.beside(image, overlays.overlay(image, one)) for image, one in zip(images, maps, strict=True)]

    return Subject(
        name=f"{description.config.get('name', 'run')} ({workdir.name})",
        split=split,
        step=step,
        evaluated=evaluated,
        class_names=description.class_names,
        calibration=found if found is not None and found.step == step else None,
        familiar=_familiar(trained, familiarity, examples, data, split),
        familiar_note=familiar_note,
        image=image,
        confusion=confusion.read_bytes() if drawn and confusion.exists() else None,
        config=description.config,
        source=description.source,
        counts={name: len(splits[name]) for name in ("train", "val", "test") if name in splits},
        history=history,
        seconds=seconds if isinstance(seconds, (int, float)) else None,
        steps=max((row["step"] for row in history if row["split"] == "train"), default=None),
        parameters=sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(_params(trained.variables))),
        versions=versions(),
        notes=notes,
        overlays=drawn_over,
    )


def _params(variables: Any) -> Any:
    return variables["params"]


def _familiar(
    trained: TrainedNetwork, familiarity: Familiarity | None, examples: Examples, data: DataConfig, split: str
) -> FamiliarImages | None:
    if familiarity is None:
        return None
    rows = np.unique(np.linspace(0, len(examples) - 1, min(_LOOKED_AT, len(examples))).astype(np.int64))
    values = familiarity(*features_of(trained, examples.take(rows), data, f"{split} images"))
    return FamiliarImages(rows, values, UNKNOWN_BELOW, len(familiarity.validation))
