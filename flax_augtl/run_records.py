"""What a run writes beside its checkpoints: the description that loading it needs, and its result."""

import csv
import io
from typing import Any

from etils import epath

from flax_augtl import added_fields, prediction_files, run_directory
from flax_augtl.data import Dataset
from flax_augtl.printable import for_spreadsheet
from flax_augtl.run_data import PLACE, place_of
from flax_augtl.training.evaluation import evaluation
from flax_augtl.training.experiment import Experiment, config_values
from flax_augtl.training.log import BRACKETS, RunLog, describe, duration
from flax_augtl.training.progress import Progress


def write_description(workdir: epath.Path, experiment: Experiment) -> None:
    """Write everything that loading the run needs, besides its checkpoints. The config comes last: it marks a run."""
    run_directory.write_json(workdir / run_directory.CLASS_NAMES, list(experiment.dataset.class_names))
    run_directory.write_json(workdir / run_directory.PREPROCESSING, experiment.preprocessing.to_json())
    run_directory.write_json(workdir / run_directory.SOURCE, experiment.source)
    path = workdir / run_directory.SPLITS
    before = run_directory.read_json(path).get(PLACE) if path.exists() else None
    run_directory.write_json(path, {"fingerprint": experiment.dataset.fingerprint,
                                    PLACE: place_of(experiment.config) or before, **experiment.dataset.split_ids()})
    if experiment.dataset.skipped:
        run_directory.write_json(workdir / run_directory.SKIPPED, experiment.dataset.skipped)
    write_near_copies(workdir, experiment.dataset)
    values, path = config_values(experiment.config), workdir / run_directory.CONFIG
    if path.exists():
        values = added_fields.still_lacking(values, run_directory.read_json(path))
    run_directory.write_json(path, values)


def write_near_copies(workdir: epath.Path, dataset: Dataset) -> None:
    """Write a CSV file of the near-copies of a dataset, nearest first, if there are any.

    The split of an image is empty if it was dropped, or left out by config.data.rate or shots.
    """
    if not dataset.near_copies:
        return
    split_of = {name: split for split, names in dataset.split_ids().items() for name in names}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "split", "label", "copy_path", "copy_split", "copy_label", "distance", "mirrored"])
    for copy in dataset.near_copies:
        one, other = ((for_spreadsheet(name), split_of.get(name, ""), for_spreadsheet(dataset.class_names[label]))
                      for name, label in ((copy.image, copy.label), (copy.copy, copy.copy_label)))
        writer.writerow([*one, *other, copy.distance, str(copy.mirrored).lower()])
    run_directory.write_text(workdir / run_directory.NEAR_COPIES, text.getvalue())


def result(experiment: Experiment, variables: Any, best_step: int, progress: Progress,
           log: RunLog | None) -> dict[str, Any]:
    """Evaluate the chosen weights, write what there is to see, and return the contents of result.json."""
    found: dict[str, Any] = {"test": None, "val": None}
    intervals: dict[str, Any] = dict(found)
    classes: list[dict[str, Any]] = []
    for split, examples in (("test", experiment.dataset.test), ("val", experiment.dataset.val)):
        if examples is None:
            continue
        evaluated = evaluation(experiment.network, experiment.preprocessing, variables, examples, experiment.config.data,
                               batch_size=experiment.config.batch_size)
        found[split], intervals[split] = evaluated.metrics, evaluated.intervals
        if split == "test":
            classes = evaluated.class_table(experiment.dataset.class_names)
        if log:
            for line in prediction_files.write_split(log.workdir / prediction_files.name_of(split), evaluated,
                                                     experiment.dataset.class_names):
                log.say(line)
        if split == "test" and log:
            log.write(best_step, split, found[split])
            log.write_confusion(split, evaluated.confusion, experiment.dataset.class_names, best_step)
            run_directory.write_json(log.workdir / "classes_test.json", classes)
            log.say(f"test, step {best_step}: {describe(found[split], intervals[split])}, in {duration(progress.seconds)}; "
                    f"{BRACKETS}")
    return {**found, "intervals": intervals, "classes": classes, "best_step": best_step, "metric": experiment.dataset.metric,
            "seconds": progress.seconds, "config_name": experiment.config.name}
