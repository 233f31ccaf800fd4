"""What --mode=evaluate does besides printing metrics: the report, and calibrating a run that is finished."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from flax_augtl.config.convert import from_json, plain
from flax_augtl.config.schema import Config
from flax_augtl.data import Examples
from flax_augtl.errors import UserError
from flax_augtl.run import Run
from flax_augtl.run_data import examples_of_split
from flax_augtl.training.evaluation import Evaluation
from flax_augtl.training.experiment import source_of
from flax_augtl.trust import calibration, familiarity
from flax_augtl.trust.finish import described
from flax_augtl.trust.inspection import Inspection
from flax_augtl.trust.report.inspected import RANDOM, inspect_some
from flax_augtl.trust.report.write import name_of, subject_of, write_report
from flax_augtl.trust.source_features import source_features
from flax_augtl.trust.trained import TrainedNetwork, fit_familiarity
from flax_augtl.workdir import files

_ABSENT = (
    "These weights have no familiarity: the run was written by an earlier version, or config.familiarity is false. "
    "--mode=evaluate --calibrate fits it, if there is a validation split."
)


def write(run: Run, split: str, evaluated: Evaluation, data_root: os.PathLike | str | None = None) -> str:
    """Write the report of an evaluation into the run directory.

    Args:
      run: the run.
      split: that was evaluated.
      evaluated: its evaluation.
      data_root: where the data are now, as it was given for the evaluation.

    Returns:
      A line that names the file, or says why it is not written.
    """
    config = from_json(plain(run.config))
    examples, _ = examples_of_split(config, run.workdir, run.class_names, split, data_root=data_root)
    other = None if run.step == (run.result or {}).get("best_step", run.step) else run.step
    path = run.workdir / name_of(split, other)
    found = familiarity.read(run.workdir, run.step)
    subject = subject_of(
        run.workdir,
        TrainedNetwork(run.network, run.preprocessing, run.variables),
        run.step,
        split,
        examples,
        evaluated,
        data=config.data,
        familiarity=found,
        familiar_note=found.note if found else _ABSENT,
    )
    inspected, note = _inspected(config, run.class_names, split, examples)
    subject = dataclasses.replace(subject, inspection=inspected, inspection_note=note)
    try:
        write_report(path, subject)
    except files.CannotWrite as error:
        return f"No report: {error}"
    return f"Report: {path}"


def _inspected(
    config: Config, class_names: Sequence[str], split: str, examples: Examples
) -> tuple[Inspection | None, str]:
    """Return what is suspicious about the labels of a split by the source weights, and a sentence about it."""
    if config.weights is None:
        return None, RANDOM
    try:
        source, preprocessing, _ = source_of(config)
    except UserError as error:
        return None, f"The labels were not inspected: that needs the source weights. {error}"

    def features(part: Examples, name: str) -> np.ndarray:
        return source_features(source.model, source.variables, preprocessing, part, config.data)

    return inspect_some(class_names, {split: examples}, features, config.data)


def calibrate(run: Run, data_root: os.PathLike | str | None = None) -> tuple[Run, list[str]]:
    """Fit the temperature and the familiarity of a finished run on its validation images, and write both.

    Returns:
      The run with its temperature, and lines for the user.

    Raises:
      UserError: the run has no validation split, its data are missing, or the directory cannot be written.
    """
    config = from_json(plain(run.config))
    validation = run.evaluation("val", data_root=data_root)
    found = calibration.fit(validation.probabilities, validation.labels, run.step)
    files.write_json(run.workdir / files.CALIBRATION, found.to_json())
    train, val = (
        examples_of_split(config, run.workdir, run.class_names, split, data_root=data_root)[0]
        for split in ("train", "val")
    )
    trained = TrainedNetwork(run.network, run.preprocessing, run.variables)
    familiar, note = fit_familiarity(trained, train, val, config.data, run.step)
    if familiar is not None:
        files.write_bytes(run.workdir / files.FAMILIARITY, familiar.to_bytes())
    return dataclasses.replace(run, temperature=found.temperature), [f"Calibration: {described(found)}", note]
