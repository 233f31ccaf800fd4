"""The grid of a study: variants × learning rates × seeds. Validation chooses the rate; test is read once a winner."""

import csv
import dataclasses
import io
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from flax_augtl import run_directory
from flax_augtl.study.statistics import mean_interval, sign_flip_p
from flax_augtl.study.variants import columns, variants_of
from flax_augtl.training import metrics
from flax_augtl.training.checkpoints import Progress
from flax_augtl.training.experiment import config_values, prepare
from flax_augtl.training.log import duration
from flax_augtl.training.loop import NotFinite, evaluate, fit
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.state import create_state

STUDY = "study.csv"
CELLS = "cells"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
      stage: `select` (validation chooses) or `final` (trained on training and validation data, and tested).
      variant: its name.
      learning_rate: of pretrained layers.
      seed: of split, initialisation and order.
      steps: length of a `final` training, None for the config's own.
    """

    stage: str
    variant: str
    learning_rate: float
    seed: int
    steps: int | None = None

    @property
    def name(self) -> str:
        """A name that is the same in every start of the study."""
        return f"{self.stage}-{self.variant}-{self.learning_rate:g}-{self.seed}"


def run_cell(cell: Cell, config: ConfigDict) -> dict[str, Any]:
    """Train one cell and return what it measured.

    Returns:
      The cell's fields, `seconds`, `best_step`, `val` and `val_loss` of the best evaluation (None for a `select` cell whose
      loss ceased to be finite), and, of a `final` cell, `test` and the name of its `metric`.

    Raises:
      NotFinite: the loss of a `final` cell is not finite.
    """
    config = config.copy_and_resolve_references()
    config.update({"seed": cell.seed, "learning_rate": cell.learning_rate})
    if cell.stage == "final":
        config.update({"data": {"validation": 0.0}, "steps": cell.steps, "epochs": None, "examples": None})
    experiment = prepare(config)
    state = create_state(experiment.variables, create_optimizer(experiment.optimizer, experiment.plan), experiment.plan,
                         config.seed)
    try:
        state, progress = fit(experiment, state, Progress())
    except NotFinite:
        if cell.stage == "final":
            raise
        # A rate that is too high is an outcome of a grid, not a failure of the study.
        return {**dataclasses.asdict(cell), "seconds": None, "best_step": None, "val": None, "val_loss": None}
    result = {**dataclasses.asdict(cell), "seconds": progress.seconds, "best_step": progress.best_step,
              "val": progress.best_value, "val_loss": progress.best_loss}
    if cell.stage == "final":
        sums = evaluate(experiment.network, experiment.preprocessing,
                        {"params": state.params, "batch_stats": state.batch_stats}, experiment.dataset.test, config.data,
                        batch_size=config.batch_size)
        result |= {"test": metrics.summary(sums)[experiment.dataset.metric], "metric": experiment.dataset.metric}
    return result


def choose_rate(results: Sequence[Mapping[str, Any]]) -> tuple[float, int]:
    """Return the learning rate with the best mean validation over all seeds, and the mean of its best steps.

    Equal accuracies are decided by the validation loss: small validation splits often give them.
    """
    rates = sorted({row["learning_rate"] for row in results})

    def mean(rate, field):
        values = [row[field] for row in results if row["learning_rate"] == rate]
        return sum(values) / len(values)

    # A rate that diverged has no validation and is not chosen.
    rates = [rate for rate in rates if all(row["val"] is not None for row in results if row["learning_rate"] == rate)]
    if not rates:
        raise ValueError("No learning rate of the grid led to a finite loss: lower config.study.learning_rates.")
    best = max(rates, key=lambda rate: (round(mean(rate, "val"), 12), -mean(rate, "val_loss")))
    return best, max(1, round(mean(best, "best_step")))


def study(config: ConfigDict, workdir: os.PathLike | str) -> list[dict[str, Any]]:
    """Choose a learning rate for every variant on validation data, retrain with it, test, and compare over paired seeds.

    Finished cells are kept below `workdir` and not trained again. A rate chosen at the edge of the grid widens the grid
    by a factor of the grid's own spacing, for that variant.

    Returns:
      The rows of study.csv.

    Raises:
      ValueError: the config has no variants, or `workdir` holds another study.
    """
    if not config.variants:
        raise ValueError("--mode=study needs config.variants: what shall be compared?")
    variants, rates, seeds = variants_of(config), tuple(config.study.learning_rates), tuple(config.study.seeds)
    if not rates or not seeds:
        raise ValueError("config.study.learning_rates and config.study.seeds must not be empty.")
    workdir = epath.Path(os.path.abspath(workdir) if "://" not in os.fspath(workdir) else workdir)
    values = config_values(config)
    path = workdir / run_directory.CONFIG
    if path.exists() and (found := run_directory.differences(run_directory.read_json(path), values)):
        raise ValueError(f"{workdir} holds another study:\n  " + "\n  ".join(found) + "\nChoose another --workdir.")
    run_directory.prepare(workdir / CELLS)
    run_directory.write_json(path, values)

    rows: list[dict[str, Any]] = []
    total, started, fresh = len(variants) * (len(rates) + 1) * len(seeds), time.monotonic(), 0

    def run_all(cells: Sequence[Cell]) -> list[dict[str, Any]]:
        nonlocal fresh
        done = []
        for cell in cells:
            path = workdir / CELLS / f"{cell.name}.json"
            if path.exists():
                row = run_directory.read_json(path)
            else:
                row = run_cell(cell, variants[cell.variant])
                run_directory.write_json(path, row)
                fresh += 1
            done.append(row)
            rows.append(row)
            left = (time.monotonic() - started) / max(fresh, 1) * max(total - len(rows), 0)
            value = row.get("test", row["val"])
            said = "diverged" if value is None else f"{'test' if 'test' in row else 'validation'} {value:.4f}"
            print(f"{len(rows):4}/{total}  {cell.name:48} {said}  {duration(left)} left", flush=True)
        return done

    finals: dict[str, list[dict[str, Any]]] = {}
    for name in variants:
        grid = sorted(rates)
        results = run_all([Cell("select", name, rate, seed) for rate in grid for seed in seeds])
        while len(grid) > 1 and (chosen := choose_rate(results)[0]) in (grid[0], grid[-1]) and len(grid) < 12:
            new = grid[0] * grid[0] / grid[1] if chosen == grid[0] else grid[-1] * grid[-1] / grid[-2]
            grid = sorted([*grid, float(f"{new:.3g}")])
            print(f"      {name}: learning rate {chosen:g} is at the edge of the grid; trying {new:.3g}")
            total += len(seeds)
            results += run_all([Cell("select", name, float(f"{new:.3g}"), seed) for seed in seeds])
        rate, steps = choose_rate(results)
        finals[name] = run_all([Cell("final", name, rate, seed, steps) for seed in seeds])
    fields = list(dict.fromkeys(field for row in rows for field in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    run_directory.write_text(workdir / STUDY, text.getvalue())
    print("\n" + table(finals))
    return rows


def table(finals: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return test results as text: mean and 95 % interval of every variant, and the first one's paired differences."""
    first = next(iter(finals))
    reference = [row["test"] for row in finals[first]]
    rows = [("variant", "learning rate", "steps", "test", "95 % interval", f"{first} minus it", "95 % interval", "p")]
    for name, cells in finals.items():
        values = [cell["test"] for cell in cells]
        mean, low, high = mean_interval(values)
        row = [name, f"{cells[0]['learning_rate']:g}", cells[0]["steps"], f"{mean:.4f}", f"{low:.4f} … {high:.4f}"]
        if name != first:
            differences = [a - b for a, b in zip(reference, values, strict=True)]
            mean, low, high = mean_interval(differences)
            row += [f"{mean:+.4f}", f"{low:+.4f} … {high:+.4f}", f"{sign_flip_p(differences):.3f}"]
        rows.append((*row, "", "", "")[:8])
    seeds = len(reference)
    text = columns(rows) + f"\n{seeds} paired seeds; Student-t intervals; p: exact sign-flip test, "
    return text + (f"which cannot be under {2 / 2**seeds:.3g} with so few seeds: no significance can be claimed."
                   if seeds < 6 else f"at least {2 / 2**seeds:.3g}.")
