"""The images that an exported program is checked on before it is written."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from flax_augtl.config.convert import from_json, plain
from flax_augtl.data import Dataset, Examples
from flax_augtl.data.images.inputs import network_input
from flax_augtl.errors import UserError
from flax_augtl.run import Run
from flax_augtl.run_data import examples_of_split

# So many say whether two programs compute the same; an accuracy is told of all images of the split.
ENOUGH = 500
_MADE_UP = 32
BATCH = 32


@dataclasses.dataclass(frozen=True, eq=False)
class CheckImages:
    """Images with their labels.

    Attributes:
      run: whose preprocessing they go through.
      examples: of the run's data; None for made-up images.
      split: `val`, `train`, or `made up`.
      note: what the user must know of them, or "".
    """

    run: Run
    examples: Examples | None
    split: str
    note: str = ""

    def __len__(self) -> int:
        return _MADE_UP if self.examples is None else len(self.examples)

    def __str__(self) -> str:
        """Return how many of which kind they are, for people."""
        kind = {"val": "validation images", "train": "training images"}.get(self.split, "made-up images")
        return f"{len(self)} {kind}"

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yield (uint8 [b, S, S, 3] as the network's preprocessing crops them, int [b] labels or None)."""
        for start in range(0, len(self), BATCH):
            rows = range(start, min(start + BATCH, len(self)))
            images = np.stack([network_input(self._image(row), self.run.preprocessing) for row in rows])
            yield images, None if self.examples is None else np.asarray(self.examples.labels[rows.start : rows.stop])

    def _image(self, row: int) -> Any:
        if self.examples is not None:
            return self.examples.source[int(self.examples.indices[row])]
        # Blocks and noise: plain noise alone looks the same to a network, whatever its seed.
        rng = np.random.default_rng(row)
        blocks = rng.integers(0, 256, (*rng.integers(1, 9, 2), 3), np.uint8)
        noise = rng.integers(0, 1 + 255 * (row % 2), (64, 64, 3), np.uint8)
        return np.resize(np.kron(blocks, np.ones((8, 8, 1), np.uint8)), (64, 64, 3)) ^ noise


def check_images(
    run: Run, *, every: bool = False, dataset: Dataset | None = None, data_root: Any = None
) -> CheckImages:
    """Return validation images of a run; training images if it has no validation split, made-up ones without its data.

    Args:
      run: whose images.
      every: all images of the split, and not `ENOUGH` of them.
      dataset: the one that `train` was given, if it was given one.
      data_root: where the data are now.

    Raises:
      ValueError: `dataset` or `data_root` is given, and is not what the run was trained on.
    """
    reason = ""
    for split in ("val", "train"):
        try:
            examples, _ = examples_of_split(
                from_json(plain(run.config)), run.workdir, run.class_names, split, dataset=dataset, data_root=data_root
            )
        except ValueError as error:
            if split == "train" and (dataset is not None or data_root):
                raise
            reason = reason or str(error)
            if "has no split" not in str(error):
                break
            reason = ""
            continue
        if not every and len(examples) > ENOUGH:
            examples = examples.take(np.linspace(0, len(examples) - 1, ENOUGH).astype(np.int64))
        return CheckImages(run, examples, split)
    if dataset is not None or data_root:
        raise UserError(reason)
    return CheckImages(
        run,
        None,
        "made up",
        "The export was checked on made-up images, because the images of the run cannot "
        f"be read: {reason} Say where they are with --data_root=FOLDER.",
    )
