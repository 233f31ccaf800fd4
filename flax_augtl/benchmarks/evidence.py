"""Tables and the figure of docs/results.md from finished studies: every head against `traditional`, paired by seed.

    python -m flax_augtl.benchmarks.evidence runs/flowers12_resnet18_5 runs/aid30_resnet18_5 --figure=docs/evidence.svg

A study is a directory of `main.py --mode=study`; study.csv, timing.json and the times of its passes are read.
"""

import argparse
import csv
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax_augtl.errors import UserError
from flax_augtl.features.cache import fill_seconds
from flax_augtl.runtime.text import duration
from flax_augtl.study.report.tables import ROLES
from flax_augtl.training.statistics import bca_interval, sign_flip_p
from flax_augtl.workdir import files

BASE = "traditional"
Row = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Study:
    """A finished study.

    Attributes:
      name: of its configuration.
      rows: of study.csv.
      planned: seconds that a training of each (head, frozen layer group, classifier rate) was planned to take.
      passes: seconds of the passes over the images.
    """

    name: str
    rows: Sequence[Row]
    planned: Mapping[str, float]
    passes: float


@dataclasses.dataclass(frozen=True)
class Result:
    """A head at one freeze depth, tested with every seed.

    Attributes:
      head: its name.
      depth: its freeze depth.
      rate: learning rate of pretrained layers.
      steps: of the training.
      settings: how many settings validation chose from.
      test: accuracy by seed.
      others: that of `traditional` for the same seeds; empty for itself.
      pace: epochs to 90 and 95 % of the final accuracy of each seed that chose, by seed.
    """

    head: str
    depth: str
    rate: float
    steps: int
    settings: int
    test: Mapping[int, float]
    others: Mapping[int, float]
    pace: Mapping[int, tuple[float, float]]

    @property
    def differences(self) -> list[float]:
        """To `traditional`, by seed."""
        return [self.test[seed] - self.others[seed] for seed in sorted(self.test) if seed in self.others]


def read(folder: Path) -> Study:
    """Read a study.

    Raises:
      UserError: it is not a finished study.
    """
    table = folder / files.STUDY
    if not table.exists():
        raise UserError(f"{folder} is not a finished study: it has no {files.STUDY}.")
    with table.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    timing, config = (files.read_json(folder / name) or {} for name in ("timing.json", files.CONFIG))
    return Study(str(config["name"]), rows, timing.get("cell_seconds", {}), fill_seconds(folder))


def results(study: Study) -> list[Result]:
    """Return every tested head and depth, in the order of the study."""
    found = []
    tested = [row for row in study.rows if row["stage"] == "final" and row[f"test_{row['metric']}"]]
    for head, depth in dict.fromkeys((row["head"], row["depth"]) for row in tested):
        finals = [row for row in tested if (row["head"], row["depth"]) == (head, depth)]
        chosen = [
            row
            for row in study.rows
            if row["stage"] == "select"
            and all(row[name] == finals[0][name] for name in ("head", "depth", "learning_rate", "classifier_rate"))
        ]
        settings = {
            (row["frozen_up_to"], row["learning_rate"], row["classifier_rate"])
            for row in study.rows
            if row["stage"] == "select" and row["head"] == head
        }
        paces = {row["seed"]: [row[f"epochs_to_{share}_percent_of_final"] for share in (90, 95)] for row in chosen}
        found.append(
            Result(
                head,
                depth,
                float(finals[0]["learning_rate"]),
                int(finals[0]["steps"]),
                len(settings),
                _values(finals),
                {} if head == BASE else _base(tested, depth),
                {int(seed): (float(pace[0]), float(pace[1])) for seed, pace in paces.items() if all(pace)},
            )
        )
    return found


def _base(tested: Sequence[Row], depth: str) -> dict[int, float]:
    """Return the accuracies of `traditional` at a depth, or at its only one."""
    rows = [row for row in tested if row["head"] == BASE]
    return _values([row for row in rows if row["depth"] == depth] or rows)


def _values(rows: Sequence[Row]) -> dict[int, float]:
    return {int(row["seed"]): float(row[f"test_{row['metric']}"]) for row in rows}


def markdown(study: Study) -> str:
    """Return the table of a study: accuracy, difference to `traditional`, and what validation chose."""
    found = results(study)
    paces = {(one.head, one.depth): one.pace for one in found}
    lines = [
        "| | head | frozen up to | rate | steps | settings | test | minus `traditional` | p | epochs to 90 % | to 95 % |",
        "|---" * 11 + "|",
    ]
    for one in found:
        base = paces.get((BASE, one.depth)) or next((pace for (head, _), pace in paces.items() if head == BASE), {})
        cells = [
            ROLES.get(one.head, ""),
            f"`{one.head}`",
            f"`{one.depth}`",
            f"{one.rate:g}",
            str(one.steps),
            str(one.settings),
            _interval([100 * value for value in one.test.values()], ".1f"),
            _interval([100 * value for value in one.differences], "+.1f"),
            f"{sign_flip_p(one.differences):.3f}" if one.differences else "",
            *_paces(one.pace, {} if one.head == BASE else base),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _paces(pace: Mapping[int, tuple[float, float]], base: Mapping[int, tuple[float, float]]) -> Iterator[str]:
    """Yield the mean epochs to each share, with the paired difference to `traditional`."""
    for share in (0, 1):
        values = [one[share] for one in pace.values()]
        pairs = [pace[seed][share] - base[seed][share] for seed in sorted(pace.keys() & base.keys())]
        text = f"{sum(values) / len(values):.1f}" if values else "–"
        yield text + (f" ({sum(pairs) / len(pairs):+.1f})" if pairs else "")


def _interval(values: Sequence[float], form: str) -> str:
    """Return the mean with its 95 % BCa interval over seeds."""
    if not values:
        return ""
    mean, low, high = bca_interval(values)
    ends = "" if math.isnan(low) else f" [{format(low, form)}, {format(high, form)}]"
    return (format(mean, form) + ends).replace("-", "−")


def cost(study: Study) -> str:
    """Return the planned and the actual time of a study in a sentence."""
    keys = [" ".join((row["head"], row["frozen_up_to"], row["classifier_rate"])) for row in study.rows]
    planned = sum(study.planned.get(key, 0.0) for key in keys)
    actual = sum(float(row["seconds"]) for row in study.rows if row["seconds"])
    return (
        f"{len(study.rows)} trainings: {duration(planned)} planned, {duration(actual)} taken; "
        f"{duration(study.passes)} for the activations."
    )


def draw(studies: Sequence[Study], path: Path) -> None:
    """Draw the difference to `traditional` with its interval: a row for each study and depth, a column for each head."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    lines: dict[str, dict[str, Result]] = {}
    for study in studies:
        found = [one for one in results(study) if one.differences]
        several = len({one.depth for one in found if one.head == found[0].head}) > 1
        for one in found:
            label = study.name.replace("_", " ") + (f", up to {one.depth}" if several else "")
            lines.setdefault(label, {})[one.head] = one
    heads = list(dict.fromkeys(head for line in lines.values() for head in line))
    if not heads:
        raise UserError("There is nothing to draw: no study tested another head than traditional.")
    settings: dict[Any, Any] = {
        "svg.hashsalt": "flax_augtl",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
    }
    with plt.rc_context(settings):
        size = (2 + 1.15 * len(heads), 1 + 0.32 * len(lines))
        figure, columns = plt.subplots(
            1, len(heads), figsize=size, sharey=True, sharex=True, squeeze=False, layout="constrained"
        )
        for axes, head in zip(columns[0], heads, strict=True):
            axes.axvline(0, color="0.6", lw=0.8)
            for place, line in enumerate(lines.values()):
                if head in line:
                    mean, low, high = bca_interval([100 * value for value in line[head].differences])
                    axes.plot([low, high], [place, place], color="#1f77b4", lw=1.5)
                    axes.plot([mean], [place], "o", color="#1f77b4", ms=4)
            axes.set_title(f"{head}\n{ROLES.get(head, '')}", fontsize=8)
            axes.grid(axis="x", alpha=0.3)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(left=False)
        columns[0][0].set_yticks(range(len(lines)), [*lines])
        columns[0][0].invert_yaxis()
        figure.supxlabel(f"test accuracy minus {BASE}, in points", fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
        plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m flax_augtl.benchmarks.evidence", description=description)
    parser.add_argument("studies", type=Path, nargs="+", help="directories of finished studies")
    parser.add_argument("--figure", type=Path, default=None, help="an SVG or PNG file to draw")
    options = parser.parse_args(arguments)
    try:
        studies = [read(folder) for folder in options.studies]
        for study in studies:
            print(f"### {study.name}\n\n{markdown(study)}\n\n{cost(study)}\n")
        if options.figure is not None:
            draw(studies, options.figure)
            print(options.figure)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
