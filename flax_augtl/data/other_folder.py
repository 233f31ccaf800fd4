"""Labelled images of another folder, to test a trained network on."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.sources.folder import list_folder
from flax_augtl.data.sources.image_files import FileSource
from flax_augtl.data.splits.check_images import check_images
from flax_augtl.data.splits.integrity import note
from flax_augtl.data.types import Examples
from flax_augtl.runtime.paths import nfc


def labelled_images(root: epath.PathLike, class_names: Sequence[str], data: DataConfig) -> tuple[Examples, list[str]]:
    """Find all images of a folder with one sub-folder for each class; its splits, if any, are joined.

    Args:
      root: the folder.
      class_names: the classes of the network; the folder may have only some of them.
      data: config.data of the run, which says how images are read.

    Returns:
      The images, and notes about them.

    Raises:
      DataError: the folder has no images, or a class that the network does not know.
    """
    listing = list_folder(root, least_classes=1)
    position = {nfc(name): number for number, name in enumerate(class_names)}
    if unknown := [name for name in listing.class_names if nfc(name) not in position]:
        raise DataError(
            f"{root} has classes that the network was not trained on: {listed(unknown)}. It knows "
            f"{listed(class_names)}. Remove or rename those folders."
        )
    paths = [path for split in sorted(listing.splits) for path in listing.splits[split][0]]
    ours = np.concatenate([listing.splits[split][1] for split in sorted(listing.splits)])
    labels = np.array([position[nfc(name)] for name in listing.class_names], np.int32)[ours]
    source = FileSource(listing.root, tuple(paths), data.max_pixels)
    checked = check_images(source, data)
    kept = np.array([index for index in range(len(paths)) if index not in checked.bad], np.int64)
    ids = tuple(listing.ids.get(paths[index], paths[index]) for index in kept)
    # The splits of the folder are joined, so notes about them would mislead.
    notes = [f"{len(kept)} images of {len(listing.class_names)} classes in {root}."]
    if checked.scan is None:
        notes += checked.notes
    if checked.bad:
        notes.append(note({paths[index]: reason for index, reason in checked.bad.items()}, len(paths)))
    there = {nfc(name) for name in listing.class_names}
    if absent := [name for name in class_names if nfc(name) not in there]:
        notes.append(
            f"{len(absent)} of the {len(class_names)} classes of the network have no image there: {listed(absent)}."
        )
    return Examples(source, kept, labels[kept], ids), notes
