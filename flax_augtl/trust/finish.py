"""The end of a training: what is fitted on validation images, result.json, and the report."""

import dataclasses
from typing import Any

from etils import epath

from flax_augtl.config.heads import LDA
from flax_augtl.runtime import distributed
from flax_augtl.training import result as run_result
from flax_augtl.training.evaluation import Evaluation
from flax_augtl.training.experiment import Experiment
from flax_augtl.training.log import RunLog
from flax_augtl.training.progress import Progress
from flax_augtl.trust import calibration
from flax_augtl.trust.calibration import Calibration
from flax_augtl.trust.inspection import Inspection
from flax_augtl.trust.report.inspected import RANDOM, inspect_some
from flax_augtl.trust.report.write import subject_of, write_report
from flax_augtl.trust.trained import TrainedNetwork, features_of, fit_familiarity
from flax_augtl.workdir import files


def finish(
    workdir: epath.Path, experiment: Experiment, variables: Any, best_step: int, progress: Progress, log: RunLog | None
) -> tuple[dict[str, Any], float | None]:
    """Evaluate the chosen weights, and write what a finished run has besides its checkpoints.

    result.json marks a finished run, so the report, which can be written again, comes after it.

    Args:
      workdir: the run directory.
      experiment: the run.
      variables: the chosen weights.
      best_step: their step.
      progress: at the end of the training.
      log: in the first process.

    Returns:
      The contents of result.json, and the temperature; None without one.
    """
    evaluations = run_result.evaluate_splits(experiment, variables)
    config, dataset = experiment.config, experiment.dataset
    say = log.say if log else lambda text: None
    # The softmax of discriminant analysis is a posterior already.
    own = experiment.network.head.settings.fit == LDA
    found = calibrate("none" if own else config.calibrate, evaluations.get("val"), best_step)
    if found is not None:
        files.write_json(workdir / files.CALIBRATION, found.to_json())
        say(f"Calibration: {described(found)}")
    temperature = found.temperature if found else None
    trained = TrainedNetwork(experiment.network, experiment.preprocessing, variables)
    familiar, note = None, ""
    if config.familiarity and distributed.is_first():
        familiar, note = fit_familiarity(trained, dataset.train, dataset.val, config.data, best_step)
        if familiar is not None:
            files.write_bytes(workdir / files.FAMILIARITY, familiar.to_bytes())
        say(note)
    result = run_result.result(
        experiment,
        evaluations,
        best_step,
        progress,
        log,
        calibrated={split: with_temperature(one, temperature) for split, one in evaluations.items()},
        more={
            split: calibration.calibrated_metrics(one.probabilities, one.labels, temperature)
            for split, one in evaluations.items()
        },
    )
    result["calibration"] = found.to_json() if found else None
    files.write_json(workdir / files.RESULT, result)
    if config.report and distributed.is_first():
        inspected, inspected_note = _inspected(experiment)
        subject = subject_of(
            workdir,
            trained,
            best_step,
            "test",
            dataset.test,
            evaluations["test"],
            data=config.data,
            familiarity=familiar,
            familiar_note=note,
            drawn=log is not None,
            notes=dataset.notes,
        )
        subject = dataclasses.replace(subject, inspection=inspected, inspection_note=inspected_note)
        write_report(workdir / files.REPORT, subject)
        say(f"Report: {workdir / files.REPORT}")
    return result, temperature


def _inspected(experiment: Experiment) -> tuple[Inspection | None, str]:
    """Return what is suspicious about the labels by the source weights, and a sentence about it."""
    config, dataset = experiment.config, experiment.dataset
    if config.weights is None:
        return None, RANDOM
    # The network before its training; the program that gives its features is compiled already.
    source = TrainedNetwork(experiment.network, experiment.preprocessing, experiment.variables)
    return inspect_some(
        dataset.class_names,
        {"train": dataset.train, "val": dataset.val, "test": dataset.test},
        lambda part, name: features_of(source, part, config.data, f"{name} images")[0],
        config.data,
    )


def calibrate(setting: str, validation: Evaluation | None, step: int) -> Calibration | None:
    """Return the calibration that `config.calibrate` asks for; None if it asks for none."""
    if setting == "none":
        return None
    if validation is None:
        return Calibration(None, step, 0, "Not calibrated: there is no validation split.")
    return calibration.fit(validation.probabilities, validation.labels, step)


def described(found: Calibration) -> str:
    """Return a calibration as a sentence for the log."""
    if found.temperature is None:
        return found.note
    return f"temperature {found.temperature:.3g}. {found.note}"


def with_temperature(evaluated: Evaluation, temperature: float | None) -> Evaluation:
    """Return an evaluation with calibrated probabilities. Its metrics are of no use: they mix both."""
    if evaluated.probabilities is None:
        return evaluated
    return dataclasses.replace(evaluated, probabilities=calibration.calibrated(evaluated.probabilities, temperature))
