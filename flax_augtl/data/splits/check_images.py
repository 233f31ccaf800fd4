"""Check the images of a source before the splits are made: all of them, a random share, or none."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import keyed_random
from flax_augtl.data.errors import DataError
from flax_augtl.data.splits.integrity import Encoded, Scan, remarks, scan


class Checked(NamedTuple):
    """What is known about the images of a source.

    Attributes:
      bad: {position in the source: why the image cannot be read}.
      notes: sentences for the log.
      scan: the results for all images; None if only some were read, so that copies cannot be found.
    """

    bad: dict[int, str]
    notes: tuple[str, ...]
    scan: Scan | None


def check_settings(data: DataConfig) -> None:
    """Raise DataError for settings of config.data that need all images scanned, where config.data.scan leaves some out."""
    for field in ("on_leak", "on_conflict", "near_copies"):
        value = getattr(data, field)
        if data.scan < 1 and value in ("drop", "error"):
            raise DataError(
                f"config.data.{field}={value} needs the scan of all images, and config.data.scan={data.scan:g} leaves "
                f"some out. Set config.data.scan=1, or leave config.data.{field} out."
            )


def check_images(source: Encoded, data: DataConfig, among: np.ndarray | None = None) -> Checked:
    """Scan the share of the images that config.data.scan asks for.

    Args:
      source: the image files.
      data: config.data.
      among: int [m], positions of the images that are used; None for all.

    Raises:
      DataError: images cannot be read and config.data.on_bad_image is "error".
    """
    if data.scan == 1:
        seen = scan(source, data.on_bad_image, data.scan_dir, among)
        return Checked(seen.bad, remarks(source, seen, among), seen)
    everything = np.arange(len(source)) if among is None else among
    amount = int(np.ceil(data.scan * len(everything)))
    drawn = keyed_random.permutation(len(everything), 0, "scan")[:amount] if amount else np.zeros(0, np.int64)
    positions = everything[np.sort(drawn)]
    part = _Part(source, positions.tolist())
    seen = scan(part, data.on_bad_image, data.scan_dir) if amount else None
    told = (
        f"{amount} of {len(everything)} images were scanned (config.data.scan={data.scan:g}). It is not known whether "
        "the others can be read, and copies of images were not looked for: test images may be in the training data, "
        "and equal images may have different labels. The program stops at the first image that it cannot read."
    )
    if seen is None:
        return Checked({}, (told,), None)
    bad = {int(positions[i]): reason for i, reason in seen.bad.items()}
    return Checked(bad, (told, *remarks(part, seen)), None)


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """Some images of a source, as a source."""

    whole: Encoded
    positions: Sequence[int]

    @property
    def max_pixels(self) -> int:
        return self.whole.max_pixels

    def __len__(self) -> int:
        return len(self.positions)

    def path(self, index: int) -> str:
        return self.whole.path(self.positions[index])

    def name(self, index: int) -> str:
        return self.whole.name(self.positions[index])

    def encoded(self, index: int) -> bytes:
        return self.whole.encoded(self.positions[index])

    def state(self, among: Sequence[int] | None = None) -> str:
        return self.whole.state(self.positions if among is None else [self.positions[i] for i in among])
