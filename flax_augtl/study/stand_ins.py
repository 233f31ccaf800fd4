"""What a dry run uses in place of weights and data that are not there: random weights and blank images."""

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from flax_augtl.config.presets import resolved
from flax_augtl.config.schema import Config
from flax_augtl.data import check_there
from flax_augtl.data.errors import DataError
from flax_augtl.data.splits.make_splits import divide
from flax_augtl.data.types import Dataset, Examples
from flax_augtl.errors import UserError
from flax_augtl.pretrained.locate import locate

# Of a photo in most datasets.
WIDTH, HEIGHT = 500, 375


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of a dataset.

    Attributes:
      classes: their number.
      train: training images; all images where `test` is None.
      val: validation images; 0 if they are taken from the training images.
      test: test images; None if they are taken from all.
    """

    classes: int
    train: int
    val: int = 0
    test: int | None = None


SIZES: Mapping[str, Size] = {
    "oxford_flowers102": Size(102, 1020, 1020, 6149),
    "caltech_birds2011": Size(200, 5994, 0, 5794),
    "stanford_dogs": Size(120, 12000, 0, 8580),
    "oxford_iiit_pet": Size(37, 3680, 0, 3669),
    "caltech101": Size(101, 3030, 0, 5647),
    "caltech256": Size(256, 29780),
    "flowers12": Size(12, 444, 0, 300),
    "aid30": Size(30, 1080, 0, 720),
    "bloodcells8": Size(8, 480, 0, 320),
    "hymenoptera": Size(2, 243, 0, 153),
}
"""By `config.data.name`, or by the name of the folder `config.data.root`."""


class BlankImages:
    """Grey images, decoded from JPEG each time, as files are."""

    def __init__(self, count: int):
        """Take their number."""
        content = io.BytesIO()
        Image.new("RGB", (WIDTH, HEIGHT), "grey").save(content, "JPEG")
        self._count, self._jpeg = count, content.getvalue()

    def __len__(self) -> int:
        """Return the number of images."""
        return self._count

    def __getitem__(self, index: int) -> Image.Image:
        """Return an image."""
        with Image.open(io.BytesIO(self._jpeg)) as image:
            return image.convert("RGB")


@dataclasses.dataclass(frozen=True)
class StandIns:
    """What is missing, and what takes its place.

    Attributes:
      random_weights: whether the weights are missing.
      datasets: blank datasets by seed; None if the data are there.
      notes: sentences about what is missing.
    """

    random_weights: bool
    datasets: Mapping[int, Dataset] | None
    notes: tuple[str, ...]


def stand_ins(config: Config, given: Mapping[int, Dataset] | None = None) -> StandIns | None:
    """Return what takes the place of missing weights and data; None if nothing is missing.

    Args:
      config: of the study.
      given: datasets by seed, in place of what `config.data` names.

    Raises:
      DataError: the data are missing, and their size is not known.
    """
    notes = []
    weights = _missing_weights(config)
    if weights:
        notes.append(f"{weights}\nThe plan is made with random weights, which cost the same.")
    datasets = None
    if given is None:
        try:
            check_there(config.data)
        except DataError as error:
            datasets = _blank(config, error)
            notes.append(
                f"{error}\nThe plan is made with as many blank images of {WIDTH} x {HEIGHT} pixels as {_name(config)} has."
            )
    return StandIns(bool(weights), datasets, tuple(notes)) if notes else None


def _missing_weights(config: Config) -> str | None:
    """Return why the weights are missing; None if they are there, or if none are asked for."""
    if config.weights is None or Path(config.weights).exists():
        return None
    try:
        locate(config.weights)
    except UserError as error:
        return str(error)
    return None


def _name(config: Config) -> str | None:
    names = (config.data.name, Path(config.data.root or "").name, Path(config.data.root or "").parent.name)
    return next((name for name in names if name in SIZES), None)


def _blank(config: Config, error: DataError) -> dict[int, Dataset]:
    name = _name(config)
    if name is None:
        raise DataError(
            f"{error} A dry run can do without the data of {', '.join(SIZES)}, whose sizes it knows: those are names of "
            "config.data.name or of the folder config.data.root."
        ) from error
    size, data = SIZES[name], config.data
    parts = {"train": size.train, "val": size.val, "test": size.test or 0}
    parts = {part: count for part, count in parts.items() if count}
    if size.test is None:
        parts = {"all": size.train}
    examples = {part: _examples(part, count, size.classes) for part, count in parts.items()}
    names = tuple(f"class {number}" for number in range(size.classes))
    return {
        seed: divide(name, names, examples, data, seed, metric=data.metric or "top1")
        for seed in resolved(config.study).seeds
    }


def _examples(part: str, count: int, classes: int) -> Examples:
    labels = np.arange(count, dtype=np.int32) % classes
    return Examples(BlankImages(count), np.arange(count), labels, tuple(f"{part}/{i:07d}" for i in range(count)))
