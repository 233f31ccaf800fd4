"""folds.html: all folds of a cross-validation or of a study on one page, with links to the files of each fold."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flax_augtl.runtime.markup import Markup, details, document, element, join, paragraph, section, table
from flax_augtl.training import prediction_files
from flax_augtl.workdir import files as run_directory

NAME = "folds.html"
_NAMES = {"top1": "top-1 accuracy", "mean_per_class": "mean accuracy per class"}
_SPREAD = ("mean", "sd", "min", "max")
_NOTE = (
    "sd: standard deviation over the folds. The folds share most of their training images, so it is not a standard "
    "error of the mean."
)


def training_page(summary: Mapping[str, Any], sentence: str, config: Mapping[str, Any]) -> str:
    """Return the page of a training over all folds.

    Args:
      summary: the contents of folds.json.
      sentence: the result as sentences, one per line.
      config: the configuration, as JSON values.
    """
    spreads = [
        [f"{split} {metric}", *(_number(values[name]) for name in _SPREAD)]
        for split in ("test", "val")
        for metric, values in (summary[split] or {}).items()
    ]
    rows = [
        [
            f"fold {run['fold']}",
            *(
                _number((run[split] or {}).get(metric))
                for split, metric in (
                    ("test", "top1"),
                    ("test", "mean_per_class"),
                    ("test", "loss"),
                    ("val", summary["metric"]),
                )
            ),
            run["test"]["n"],
            run["best_step"],
            f"{run['seconds']:.1f}",
            join(
                *_links(
                    run["directory"],
                    {
                        "confusion matrix": "confusion_test.png",
                        "predictions": prediction_files.name_of("test"),
                        "metrics": run_directory.RESULT,
                    },
                )
            ),
        ]
        for run in summary["runs"]
    ]
    header = [
        "Fold",
        "Test top-1",
        "Test per class",
        "Test loss",
        f"Validation {_NAMES[summary['metric']]}",
        "Test images",
        "Best step",
        "Seconds",
        "Files",
    ]
    return _page(
        summary,
        "Cross-validation",
        config,
        _sentences(sentence.splitlines()),
        section("Each fold", table(header, rows)),
        section(
            "Mean and spread",
            join(table(["Metric", "Mean", "sd", "Smallest", "Largest"], spreads), paragraph(_NOTE, "note")),
        ),
    )


def study_page(summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the page of a study over all folds.

    Args:
      summary: the contents of folds.json.
      config: the configuration, as JSON values.
    """
    name = _NAMES[summary["metric"]]
    lines = [*summary["heads"].items(), *([("chosen by validation", summary["chosen"])] if summary["chosen"] else [])]
    heads = [
        [head, *(_number(found[part]) for part in _SPREAD), found["folds"], _counted(found["depths"])]
        for head, found in lines
    ]
    rows = [
        [
            _link(f"fold {row['fold']}", f"fold{row['fold']}/{run_directory.REPORT}"),
            row["head"],
            row["depth"],
            f"{row['learning_rate']:g}",
            row["steps"],
            row["seeds"],
            _number(row["validation"]),
            _number(row["test"]),
        ]
        for row in summary["rows"]
    ]
    return _page(
        summary,
        "Study over all folds",
        config,
        _sentences(_found(summary, name)),
        section(
            "Heads over all folds",
            join(
                table(
                    [f"Test {name}", "Mean", "sd", "Smallest", "Largest", "Folds", "Depths chosen"],
                    heads,
                    [head == "chosen by validation" for head, _ in lines],
                ),
                paragraph(f"Each head at the depth and learning rate that each fold chose for it. {_NOTE}", "note"),
            ),
        ),
        section(
            "Each fold",
            join(
                table(
                    [
                        "Fold and its report",
                        "Head",
                        "Freeze depth",
                        "Learning rate",
                        "Steps",
                        "Seeds",
                        "Validation",
                        "Test",
                    ],
                    rows,
                    [row["chosen"] for row in summary["rows"]],
                ),
                paragraph(
                    f"{name.capitalize()}, mean over the seeds of the fold. Coloured rows: the head that validation chose "
                    "in that fold. The learning rate is that of pretrained layers.",
                    "note",
                ),
            ),
        ),
    )


def _found(summary: Mapping[str, Any], name: str) -> list[str]:
    """Return the result of a study over folds as sentences."""
    chosen = summary["chosen"]
    if chosen is None:
        return ["No fold has a tested head."]
    heads = _counted([row["head"] for row in summary["rows"] if row["chosen"]])
    sd = "" if chosen["sd"] is None else f" ± {chosen['sd']:.4f}"
    return [
        f"The head that each fold chose by validation has a test {name} of {chosen['mean']:.4f}{sd} (mean and standard "
        f"deviation over {chosen['folds']} folds; {chosen['min']:.4f} to {chosen['max']:.4f}).",
        f"Chosen heads: {heads}. Chosen freeze depths: {_counted(chosen['depths'])}.",
        "Each fold chose its head, depth and learning rate without its test images.",
    ]


def _page(summary: Mapping[str, Any], title: str, config: Mapping[str, Any], verdict: Markup, *sections: Markup) -> str:
    name = str(summary["config_name"])
    every = details("Every field", element("pre", json.dumps(config, indent=2, ensure_ascii=False, default=str)))
    body = join(
        element("h1", f"{title}: {name}, {summary['folds']} folds"),
        section("Verdict", verdict),
        *sections,
        section("Config", every),
    )
    return document(f"{name}: {summary['folds']} folds", body)


def _sentences(lines: Sequence[str]) -> Markup:
    return element("ul", join(*(element("li", line) for line in lines)))


def _links(folder: str, files: Mapping[str, str]) -> list[Markup]:
    links = [_link(text, f"{folder}/{file}") for text, file in files.items()]
    return [part for link in links for part in (link, Markup(", "))][:-1]


def _link(text: str, target: str) -> Markup:
    return element("a", text, {"href": target})


def _counted(names: Sequence[str]) -> str:
    """Return names with their counts, the most frequent first."""
    return ", ".join(f"{name} ({count} of {len(names)})" for name, count in Counter(names).most_common())


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
