"""What a run writes besides its checkpoints: its description and its result."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from flax_augtl.config.convert import to_json
from flax_augtl.data.splits.near_copies_table import write_near_copies
from flax_augtl.runtime.text import duration
from flax_augtl.training import prediction_files
from flax_augtl.training.evaluation import Evaluation, evaluation
from flax_augtl.training.experiment import Experiment
from flax_augtl.training.log import BRACKETS, RunLog, describe
from flax_augtl.training.progress import Progress
from flax_augtl.version import __version__
from flax_augtl.workdir import files
from flax_augtl.workdir.description import PLACE, Description, place_of, write_description


def describe_run(workdir: epath.Path, experiment: Experiment) -> None:
    """Write what loading the run needs besides its checkpoints, and what is known about its data."""
    dataset = experiment.dataset
    if dataset.skipped:
        files.write_json(workdir / files.SKIPPED, dataset.skipped)
    write_near_copies(workdir, dataset)
    write_description(
        workdir,
        Description(
            to_json(experiment.config), dataset.class_names, experiment.preprocessing.to_json(), experiment.source
        ),
        {"fingerprint": dataset.fingerprint, PLACE: place_of(experiment.config.data.root), **dataset.split_ids()},
    )


def evaluate_splits(experiment: Experiment, variables: Any) -> dict[str, Evaluation]:
    """Evaluate weights on the test split and, if there is one, on the validation split."""
    return {
        split: evaluation(
            experiment.network,
            experiment.preprocessing,
            variables,
            examples,
            experiment.config.data,
            batch_size=experiment.config.batch_size,
            kept=experiment.kept_split(split),
        )
        for split, examples in (("test", experiment.dataset.test), ("val", experiment.dataset.val))
        if examples is not None
    }


def result(
    experiment: Experiment,
    evaluations: Mapping[str, Evaluation],
    best_step: int,
    progress: Progress,
    log: RunLog | None,
    *,
    calibrated: Mapping[str, Evaluation] | None = None,
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write predictions and figures, and return the contents of result.json.

    Args:
      experiment: the run.
      evaluations: of the chosen weights, by split (`evaluate_splits`).
      best_step: the step of these weights.
      progress: at the end of the training.
      log: in the first process.
      calibrated: evaluations with the probabilities to write, if they are not those of `evaluations`.
      more: further metrics of each split.
    """
    found: dict[str, Any] = {"test": None, "val": None}
    intervals: dict[str, Any] = dict(found)
    classes: list[dict[str, Any]] = []
    for split, evaluated in evaluations.items():
        found[split] = {**evaluated.metrics, **(more or {}).get(split, {})}
        intervals[split] = evaluated.intervals
        if split == "test":
            classes = evaluated.class_table(experiment.dataset.class_names)
        if log:
            for line in prediction_files.write_split(
                log.workdir / prediction_files.name_of(split),
                (calibrated or evaluations)[split],
                experiment.dataset.class_names,
            ):
                log.say(line)
        if split == "test" and log:
            log.write(best_step, split, found[split])
            log.write_confusion(split, evaluated.confusion, experiment.dataset.class_names, best_step)
            files.write_json(log.workdir / "classes_test.json", classes)
            log.say(
                f"test, step {best_step}: {describe(found[split], intervals[split])}, in {duration(progress.seconds)}; "
                f"{BRACKETS}"
            )
    return {
        **found,
        "intervals": intervals,
        "classes": classes,
        "best_step": best_step,
        "metric": experiment.dataset.metric,
        "seconds": progress.seconds,
        "config_name": experiment.config.name,
        "version": __version__,
    }
