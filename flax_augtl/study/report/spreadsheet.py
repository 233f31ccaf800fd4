"""study.csv: one row for each trial."""

import csv
import io

from flax_augtl.study.report import queries
from flax_augtl.study.report.convergence import SHARES
from flax_augtl.study.result import StudyResult
from flax_augtl.study.selection import still_rising

METRICS = ("top1", "top5", "mean_per_class", "loss", "calibration_error", "n")
TEST_METRICS = ("precision", "f1", "weighted_precision", "weighted_f1", "kappa", "roc_auc")


def study_csv(result: StudyResult) -> str:
    """Return a CSV text with a row for each trial; accuracies are fractions, and empty means "not measured"."""
    settings = list(dict.fromkeys(name for row in result.rows for name in row["settings"] or ()))
    groups = list(dict.fromkeys(name for row in result.rows for name in row["change"] or ()))
    header = ["cell", "stage", "head", "depth", "frozen_up_to", "learning_rate", "new_layers_learning_rate", "seed", "steps",
              "method", *settings, "metric",
              *(f"{split}_{metric}" for split in ("val", "test") for metric in METRICS),
              *(f"test_{metric}" for metric in TEST_METRICS), "best_step", "seconds",
              "examples_seen", "trainable_parameters", "epochs_to_90_percent", "seconds_to_90_percent",
              *(f"{unit}_to_{100 * share:.0f}_percent_of_final" for share in SHARES for unit in ("epochs", "seconds")),
              "still_rising",
              *(f"change_{group}" for group in groups), "diverged", "error"]  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in result.rows:
        reached = queries.reached(result, row) or (None, None)
        writer.writerow([
            *(row[name] for name in ("cell", "stage", "head", "depth")), row.get("frozen", row["depth"]),
            row["learning_rate"], queries.new_layers_rate(result, row["learning_rate"]), row["seed"], row["steps"],
            row.get("method", "plain"), *(_text((row["settings"] or {}).get(name)) for name in settings), row["metric"],
            *((row[split] or {}).get(metric) for split in ("val", "test") for metric in METRICS),
            *((row["test"] or {}).get(metric) for metric in TEST_METRICS),
            *(row[name] for name in ("best_step", "seconds", "examples_seen", "trainable")), *reached,
            *(value for share in SHARES for value in queries.reached(result, row, share, final=True) or (None, None)),
            still_rising([row]) if row["stage"] == "select" else None,
            *((row["change"] or {}).get(group) for group in groups), row["diverged"], row["error"],
        ])  # fmt: skip
    return text.getvalue()


def _text(value: object) -> object:
    """Return a tuple of widths as text that needs no quotes in CSV; return other values unchanged."""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
