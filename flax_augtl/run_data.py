"""The data of an existing run: where training found them, or where the user says that they are now."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from etils import epath

from flax_augtl.config import value_types
from flax_augtl.config.schema import Config
from flax_augtl.data import DataError, Dataset, Examples, load_dataset
from flax_augtl.data.other_folder import labelled_images
from flax_augtl.data.sources.unicode_names import Spelling, renamed, spelling_of
from flax_augtl.errors import UserError
from flax_augtl.runtime.paths import absolute
from flax_augtl.workdir import files
from flax_augtl.workdir.description import PLACE, read_splits
from flax_augtl.workdir.resume import check_split

ALL = "all"


def spelling_in(workdir: epath.Path, config: Config) -> Spelling | None:
    """Return how the run in `workdir` writes names of classes and examples; None if there is no run.

    The disk may have the same names in another Unicode form.
    """
    names, splits = workdir / files.CLASS_NAMES, workdir / files.SPLITS
    if not (names.exists() and splits.exists()):
        return None
    class_names, known = files.read_json(names), read_splits(splits)
    if not value_types.is_a(class_names, "list of texts"):
        raise UserError(f"{names} must be a list of names, one a class.")
    ids = [name for split in ("train", "val", "test") for name in known.get(split, ())]
    return spelling_of(class_names, ids, "NFC" if config.data.folder_rules > 1 else None)


def renamed_as_in(workdir: epath.Path, dataset: Dataset) -> Dataset:
    """Return a dataset with the class names of the run in `workdir`, if they differ in their Unicode form only."""
    path = workdir / files.CLASS_NAMES
    if not path.exists():
        return dataset
    names = files.read_json(path)
    return renamed(dataset, tuple(names)) if value_types.is_a(names, "list of texts") else dataset


def load_again(config: Config, workdir: epath.Path, data_root: os.PathLike | str | None = None) -> Dataset:
    """Load the dataset that the run in `workdir` was trained on.

    Args:
      config: the run's configuration.
      workdir: the run directory.
      data_root: where the data are now; None for the folder that the config names.

    Raises:
      DataError: the data are missing; the message says where they were, and how to name their new folder.
    """
    data = dataclasses.replace(config.data, root=os.fspath(data_root)) if data_root else config.data
    try:
        return load_dataset(data, seed=config.seed, spelling=spelling_in(workdir, config))
    except DataError as error:
        if data_root or not config.data.root or absolute(config.data.root).exists():
            raise
        path = workdir / files.SPLITS
        known = files.read_json(path) if path.exists() else {}
        trained = known.get(PLACE) if isinstance(known, Mapping) else None
        where = (
            f"It was trained on {trained}."
            if isinstance(trained, str)
            else f"It was trained on {config.data.root}, as seen from the directory in which training was started."
        )
        raise DataError(
            f"{error} The run in {workdir} looks for its data there. {where} If they have moved, say where they "
            "are with --data_root=FOLDER."
        ) from error


def examples_of_split(
    config: Config,
    workdir: epath.Path,
    class_names: Sequence[str],
    split: str,
    *,
    dataset: Dataset | None = None,
    data_root: os.PathLike | str | None = None,
) -> tuple[Examples, list[str]]:
    """Return the examples of a split and sentences about them; check that the split is the one of the training.

    Args:
      config: the run's configuration.
      workdir: the run directory.
      class_names: the run's class names.
      split: `train`, `val`, `test`, or `all` for all images of the folder `data_root`.
      dataset: the dataset that `train` got, if it got one.
      data_root: see `load_again`. For `all`: any folder with one sub-folder per class, or per some classes.

    Raises:
      UserError: the split does not exist, the data are missing, or they have changed.
    """
    if split == ALL:
        if not data_root:
            raise UserError(
                f"--split={ALL} evaluates all images of another folder: name it with --data_root=FOLDER. The "
                "splits of the run's own data are train, val and test."
            )
        return labelled_images(data_root, class_names, config.data)
    given = dataset is not None
    dataset = renamed(dataset, tuple(class_names)) if dataset is not None else load_again(config, workdir, data_root)
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    examples = splits.get(split)
    if examples is None:
        raise UserError(
            f"{workdir} has no split {split!r}. Splits: "
            f"{', '.join(name for name, part in splits.items() if part is not None)}."
        )
    other = f" To evaluate on other images, add --split={ALL}." if data_root else ""
    if dataset.class_names != tuple(class_names):
        raise UserError(
            f"The data have other classes than {workdir} was trained on: {len(dataset.class_names)} here, "
            f"{len(class_names)} there.{other}"
        )
    if not given:
        try:
            check_split(examples.ids, split, workdir)
        except ValueError as error:
            raise UserError(f"{error}{other}") from error
    return examples, []
