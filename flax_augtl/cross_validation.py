"""Cross-validation: one run per fold of the data, and the mean and spread of their test metrics."""

import csv
import dataclasses
import io
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from flax_augtl.config.convert import to_json, typed, typed_data
from flax_augtl.data.splits import folds
from flax_augtl.errors import UserError
from flax_augtl.run import Run, train
from flax_augtl.runtime.paths import absolute
from flax_augtl.runtime.text import columns
from flax_augtl.workdir import files

JSON, CSV = "folds.json", "folds.csv"


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """The runs of all folds.

    Attributes:
      workdir: the directory that holds the run directory `fold{k}` of each fold k.
      runs: the run of each fold.
      summary: the contents of folds.json.
    """

    workdir: epath.Path
    runs: tuple[Run, ...]
    summary: Mapping[str, Any]

    @property
    def result(self) -> dict[str, Any]:
        """Means over the folds in the form of a run's result.json, for tables of runs."""
        results = [finished(run) for run in self.runs]

        def means(split: str) -> dict[str, float] | None:
            spread = self.summary[split]
            return spread and {
                **{name: values["mean"] for name, values in spread.items()},
                "n": sum(result[split]["n"] for result in results),
            }

        return {
            "test": means("test"),
            "val": means("val"),
            "metric": self.summary["metric"],
            "seconds": sum(result["seconds"] for result in results),
            "config_name": self.summary["config_name"],
        }


def finished(run: Run | CrossValidation) -> Mapping[str, Any]:
    """Return the result of a run that `train` or `train_folds` returned."""
    assert run.result is not None, "only runs that have ended are returned"
    return run.result


def fold_configs(config: Any) -> list[Any]:
    """Return the configuration of every fold, in order.

    Args:
      config: a ConfigDict with config.data.folds.

    Raises:
      UserError: config.data.folds is invalid.
    """
    folds.check(dataclasses.replace(typed_data(config.data), fold=0))
    found = []
    for fold in range(config.data.folds):
        one = config.copy_and_resolve_references()
        with one.unlocked():
            one.data.fold = fold
        found.append(one.lock())
    return found


def check_folder(workdir: os.PathLike | str) -> epath.Path:
    """Return the directory of all folds.

    Raises:
      UserError: it holds a run or a study itself.
    """
    folder = absolute(workdir)
    if (folder / files.CONFIG).exists():
        raise UserError(
            f"{folder} holds a run or a study, and config.data.folds without config.data.fold makes one "
            "directory for each fold there. Choose another --workdir, or set config.data.fold."
        )
    return folder


def train_folds(
    config: Any, workdir: os.PathLike | str, *, extend: bool = False, profile: bool = False
) -> CrossValidation:
    """Train each fold into a directory below `workdir`, write folds.json, folds.csv and folds.html, and print a table.

    Finished folds are not trained again, so that the same command resumes an interrupted one.

    Args:
      config: a ConfigDict with config.data.folds, and without config.data.fold.
      workdir: gets the run directories `fold0`, `fold1` and so on.
      extend: see `flax_augtl.train`.
      profile: see `flax_augtl.train`.

    Raises:
      UserError: see `flax_augtl.train`; or config.data.folds is invalid.
    """
    from flax_augtl.folds_page import NAME, training_page  # Slow to import.

    folder, configs = check_folder(workdir), fold_configs(config)
    runs = []
    for fold, one in enumerate(configs):
        print(f"\n── fold {fold} of 0 to {len(configs) - 1} " + "─" * 56)
        runs.append(train(one, folder / f"fold{fold}", extend=extend, profile=profile))
    summary = summary_of(config.name, [finished(run) for run in runs])
    files.write_json(folder / JSON, summary)
    files.write_text(folder / CSV, as_csv(summary))
    files.write_text(folder / NAME, training_page(summary, sentence(summary), to_json(typed(config))))
    print(f"\n{table(summary)}\n\n{sentence(summary)}\n{folder / NAME}, {JSON}, {CSV}")
    return CrossValidation(folder, tuple(runs), summary)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the mean, the standard deviation (with n − 1), the minimum and the maximum of at least two values."""
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values), "min": min(values), "max": max(values)}


def summary_of(name: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the contents of folds.json.

    Args:
      name: `config.name`.
      results: the contents of result.json of each fold, in order.
    """
    found: dict[str, Any] = {"config_name": name, "folds": len(results), "metric": results[0]["metric"]}
    for split in ("test", "val"):
        parts = [result[split] for result in results]
        # Take the metrics that are numbers in all folds.
        names = (
            []
            if None in parts
            else [
                metric
                for metric in parts[0]
                if metric != "n" and all(isinstance(part.get(metric), int | float) for part in parts)
            ]
        )
        found[split] = {metric: spread([part[metric] for part in parts]) for metric in names} or None
    tested = [result["test"] for result in results]
    n = sum(part["n"] for part in tested)
    found["all"] = {"n": n, "top1": sum(part["top1"] * part["n"] for part in tested) / n}
    found["runs"] = [
        {
            "fold": fold,
            "directory": f"fold{fold}",
            **{name: result.get(name) for name in ("test", "val", "best_step", "seconds")},
        }
        for fold, result in enumerate(results)
    ]
    return found


def table(summary: Mapping[str, Any]) -> str:
    """Return the metrics of all folds as text: one line per fold, and the mean and standard deviation below."""
    rows: list[tuple[Any, ...]] = [("fold", "test top-1", "per class", "loss", "val top-1", "images", "seconds")]

    def row(
        label: Any, test: Mapping[str, float], val: Mapping[str, float] | None, images: Any = "", seconds: str = ""
    ) -> tuple[Any, ...]:
        figures = [f"{test[name]:.4f}" for name in ("top1", "mean_per_class", "loss")]
        return label, *figures, f"{val['top1']:.4f}" if val else "", images, seconds

    rows += [
        row(run["fold"], run["test"], run["val"], run["test"]["n"], f"{run['seconds']:.1f}") for run in summary["runs"]
    ]
    for label in ("mean", "sd"):
        part = {
            split: summary[split] and {name: values[label] for name, values in summary[split].items()}
            for split in ("test", "val")
        }
        rows.append(row(label, part["test"], part["val"]))
    return columns(rows, align="<>>>>>>", least=(6, 10, 10, 8, 10, 7, 8), gap=" ")


def sentence(summary: Mapping[str, Any]) -> str:
    """Return the result of cross-validation as sentences."""
    metric = summary["metric"]
    name = {"top1": "top-1 accuracy", "mean_per_class": "mean accuracy per class"}[metric]
    found = summary["test"][metric]
    return (
        f"Test {name} over {summary['folds']} folds: {found['mean']:.4f} ± {found['sd']:.4f} (mean and standard "
        f"deviation; {found['min']:.4f} to {found['max']:.4f}).\n"
        f"Each of the {summary['all']['n']} images was tested once, by a network that was not trained on it: "
        f"{summary['all']['top1']:.1%} of them are right.\n"
        "The folds share most of their training images, so the standard deviation is not a standard error of the mean."
    )


def as_csv(summary: Mapping[str, Any]) -> str:
    """Return the metrics of all folds as CSV; the last rows are mean and sd."""
    names = [(split, metric) for split in ("test", "val") for metric in summary[split] or {}]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["fold", *(f"{split}_{metric}" for split, metric in names), "test_n", "best_step", "seconds"])
    for run in summary["runs"]:
        writer.writerow(
            [
                run["fold"],
                *(run[split][metric] for split, metric in names),
                run["test"]["n"],
                run["best_step"],
                run["seconds"],
            ]
        )
    for label in ("mean", "sd"):
        writer.writerow([label, *(summary[split][metric][label] for split, metric in names), "", "", ""])
    return file.getvalue()
