"""A study over all folds of the data: one whole study for each fold, so that choices never use test images.

If one study used folds in place of seeds, it would choose on validation images that are test images of another fold.
Here each fold chooses heads, depths and rates by itself (nested cross-validation), and only the results are averaged.
"""

import csv
import io
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from flax_augtl.config.convert import to_json, typed
from flax_augtl.cross_validation import CSV, JSON, check_folder, fold_configs, spread
from flax_augtl.folds_page import NAME, study_page
from flax_augtl.runtime.text import columns
from flax_augtl.study.report import queries
from flax_augtl.study.result import StudyResult
from flax_augtl.study.study import study
from flax_augtl.workdir import files

_COLUMNS = ("fold", "head", "chosen", "depth", "learning_rate", "steps", "seeds", "validation", "test")


def study_folds(
    config: ConfigDict, workdir: os.PathLike | str, *, dry_run: bool = False, part: tuple[int, int] | None = None
) -> dict[str, Any] | None:
    """Run a study for each fold in a directory below `workdir`, write folds.json, .csv and .html, and print a table.

    Args:
      config: with config.data.folds, and config.data.fold unset.
      workdir: for the directories `fold0`, `fold1` and so on, one for each study.
      dry_run: print the plan of the first fold and stop.
      part: see `study`; it applies to each fold.

    Returns:
      The contents of folds.json; None after a dry run or a part.
    """
    folder, configs = check_folder(workdir), fold_configs(config)
    results = []
    for fold, one in enumerate(configs):
        print(f"\n── fold {fold} of 0 to {len(configs) - 1} " + "─" * 56, flush=True)
        results.append(study(one, os.path.join(folder, f"fold{fold}"), dry_run=dry_run, part=part))
        if dry_run:
            print(f"This is one of {len(configs)} folds: all of them take about {len(configs)} times as long.")
            return None
    if part is not None:
        return None
    summary = summary_of(typed(config).name, results)
    files.write_json(folder / JSON, summary)
    files.write_text(folder / CSV, as_csv(summary))
    files.write_text(folder / NAME, study_page(summary, to_json(typed(config))))
    print(
        f"\n{table(summary)}\n{folder / NAME} has links to the report of each fold; {JSON} and {CSV} have the figures."
    )
    return summary


def summary_of(name: str, results: Sequence[StudyResult]) -> dict[str, Any]:
    """Return the contents of folds.json: what each fold chose and measured, and the mean and spread of each head.

    Args:
      name: config.name.
      results: of the studies, one for each fold.
    """
    metric = results[0].metric
    rows = [row for fold, result in enumerate(results) for row in _rows(fold, result, metric)]

    def over_folds(some: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        tested = [row["test"] for row in some]
        found = (
            spread(tested) if len(tested) > 1 else {"mean": tested[0], "sd": None, "min": tested[0], "max": tested[0]}
        )
        return {**found, "folds": len(tested), "depths": [row["depth"] for row in some]}

    heads = {
        head: over_folds([row for row in rows if row["head"] == head])
        for head in dict.fromkeys(row["head"] for row in rows)
    }
    chosen = [row for row in rows if row["chosen"]]
    return {
        "config_name": name,
        "folds": len(results),
        "metric": metric,
        "heads": heads,
        "chosen": over_folds(chosen) if chosen else None,
        "rows": rows,
    }


def _rows(fold: int, result: StudyResult, metric: str) -> list[dict[str, Any]]:
    """Return a row for each head with a tested winner in a fold; its metrics are means over the seeds of the fold."""
    rows = []
    for head, winner in result.winners.items():
        tested = queries.values(queries.finals(result, head, winner["depth"]), "test", metric)
        validated = queries.values(queries.selected(result, head, winner["depth"]), "val", metric)
        if tested:
            rows.append(
                {
                    "fold": fold,
                    "head": head,
                    "chosen": head == result.best,
                    "depth": winner["depth"],
                    "learning_rate": winner["learning_rate"],
                    "steps": winner["steps"],
                    "seeds": len(tested),
                    "validation": statistics.fmean(validated.values()) if validated else None,
                    "test": statistics.fmean(tested.values()),
                }
            )
    return rows


def table(summary: Mapping[str, Any]) -> str:
    """Return the results of all folds as text: a line for each head, and one for the heads that the folds chose."""
    name = {"top1": "top-1", "mean_per_class": "per class"}[summary["metric"]]
    rows = [(f"test {name}, all folds", "mean", "sd", "folds", "depth chosen in each fold")]
    for head, found in [*summary["heads"].items(), ("chosen by validation", summary["chosen"])]:
        if found:
            sd = "–" if found["sd"] is None else f"{found['sd']:.4f}"
            rows.append((head, f"{found['mean']:.4f}", sd, str(found["folds"]), ", ".join(found["depths"])))
    return columns(rows, align="<>>>") + (
        "\nEach fold made its choices without its test images. sd: standard deviation over folds, which share most "
        "of their training images; it is not a standard error of the mean."
    )


def as_csv(summary: Mapping[str, Any]) -> str:
    """Return a row for each fold and head as CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary["rows"])
    return file.getvalue()
