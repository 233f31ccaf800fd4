"""Write the list of near-copies into the directory of a run or a study."""

import csv
import io

from etils import epath

from flax_augtl.data.types import Dataset
from flax_augtl.runtime.text import for_spreadsheet
from flax_augtl.workdir import files


def write_near_copies(workdir: epath.Path, dataset: Dataset) -> None:
    """Write a CSV file of the near-copies of a dataset, nearest first, if there are any.

    The split of an image is empty if it was dropped, or not chosen because of config.data.rate or config.data.shots.
    """
    if not dataset.near_copies:
        return
    split_of = {name: split for split, names in dataset.split_ids().items() for name in names}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "split", "label", "copy_path", "copy_split", "copy_label", "distance", "mirrored"])
    for copy in dataset.near_copies:
        one, other = (
            (for_spreadsheet(name), split_of.get(name, ""), for_spreadsheet(dataset.class_names[label]))
            for name, label in ((copy.image, copy.label), (copy.copy, copy.copy_label))
        )
        writer.writerow([*one, *other, copy.distance, str(copy.mirrored).lower()])
    files.write_text(workdir / files.NEAR_COPIES, text.getvalue())
