"""Inspect the data of a configuration or of a run: `--mode=inspect`."""

import dataclasses
import os

from etils import epath
from ml_collections import ConfigDict

from flax_augtl.config.convert import from_json, typed
from flax_augtl.config.data_config import DataConfig
from flax_augtl.config.schema import Config
from flax_augtl.data import Dataset, load_dataset
from flax_augtl.errors import UserError
from flax_augtl.pretrained import Source
from flax_augtl.pretrained.run_description import read_run_description
from flax_augtl.run_data import load_again
from flax_augtl.runtime.paths import absolute
from flax_augtl.runtime.text import columns, on_one_line
from flax_augtl.training.experiment import source_of
from flax_augtl.trust import inspection_page
from flax_augtl.trust.inspection import Inspection, inspect_dataset
from flax_augtl.workdir import files
from flax_augtl.workdir.description import read_splits

# Datasets of which `shots` says how many images there are.
_DRAWN = ("digits", "glyphs")


def inspect(
    config: ConfigDict | None,
    workdir: os.PathLike | str,
    *,
    dataset: Dataset | None = None,
    data_root: os.PathLike | str | None = None,
) -> Inspection:
    """Look for wrong labels, near-copies and odd images in a dataset, and write what is found into a directory.

    All images of the dataset are inspected, also those that a training would leave out. The features are those of the
    source weights, so nothing is trained.

    Args:
      config: the configuration, see configs/common.py; None for that of the run in `workdir`.
      workdir: the directory to write into; a run directory, or any other.
      dataset: replaces the dataset that the configuration names.
      data_root: where the data are now.

    Raises:
      UserError: the configuration, the data or the weights are wrong, or there is neither a configuration nor a run.
    """
    workdir = absolute(workdir)
    files.check_links(workdir, (*(inspection_page.PAGE, inspection_page.TABLE, inspection_page.COPIES), files.SPLITS))
    if config is None and not (workdir / files.CONFIG).exists():
        raise UserError(
            f"{workdir} is not a run directory: it has no {files.CONFIG}. Give the directory of a run, or say which data "
            "to inspect with --config."
        )
    settings = typed(config) if config is not None else from_json(read_run_description(workdir).config)
    settings = dataclasses.replace(settings, data=_everything(settings.data))
    source, preprocessing, _ = source_of(settings)
    loaded = dataset or _loaded(settings, workdir, data_root, of_run=config is None)
    found = inspect_dataset(
        loaded,
        source.model,
        source.variables,
        preprocessing,
        settings.data,
        batch_size=settings.batch_size,
        split_of=_splits_of_run(workdir) if config is None else None,
        notes=_notes(settings, source),
    )
    files.prepare(workdir)
    files.write_text(workdir / inspection_page.TABLE, inspection_page.as_csv(found))
    files.write_text(workdir / inspection_page.COPIES, inspection_page.copies_csv(found))
    files.write_text(workdir / inspection_page.PAGE, inspection_page.page(found, settings.name or loaded.name))
    return found


def as_text(found: Inspection, most: int = 10) -> str:
    """Return the findings as text, with the most suspicious labels."""
    lines = inspection_page.summary(found)
    rows = [
        [
            on_one_line(found.ids[i]),
            "label",
            on_one_line(found.class_names[found.labels[i]]),
            "suggestion",
            on_one_line(found.class_names[found.errors.suggestion[i]]),
            f"{found.errors.score[i]:.3f}",
        ]
        for i in found.suspects()[:most].tolist()
    ]
    return "\n".join([*map(on_one_line, lines), *(["", columns(rows)] if rows else [])])


def _loaded(config: Config, workdir: epath.Path, data_root: os.PathLike | str | None, *, of_run: bool) -> Dataset:
    if of_run:
        return load_again(config, workdir, data_root)
    data = dataclasses.replace(config.data, root=os.fspath(data_root)) if data_root else config.data
    return load_dataset(data, seed=config.seed)


def _everything(data: DataConfig) -> DataConfig:
    """Return config.data so that no image is left out, and that nothing that will be reported is an error."""
    if data.name not in _DRAWN:
        data = dataclasses.replace(data, rate=1.0, shots=None)
    if data.fold is None:
        data = dataclasses.replace(data, folds=0)
    return dataclasses.replace(
        data, on_bad_image="skip", on_leak="warn", on_conflict="ignore", near_copies="ignore", cache="none"
    )


def _splits_of_run(workdir: epath.Path) -> dict[str, str]:
    """Return the split of each id in the training of a run."""
    known = read_splits(workdir / files.SPLITS)
    return {name: split for split in ("train", "val", "test") for name in known.get(split) or ()}


def _notes(config: Config, source: Source) -> list[str]:
    notes = []
    if config.weights is None:
        notes.append(
            "The source weights are random (config.weights is none), so labels and odd images are judged by poor "
            "features. Give pretrained weights."
        )
    if run := source.terms.get("run"):
        notes.append(
            f"The source weights come from the run {run}. If it was trained on these labels, it has learned the wrong "
            "ones, too: inspect with other weights."
        )
    return notes
