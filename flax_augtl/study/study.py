"""The layer-wise study: the paper's experiment, from a plan to a report and the best network."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from flax_augtl.config import added_fields, presets
from flax_augtl.config.convert import to_json, typed
from flax_augtl.config.schema import Config
from flax_augtl.data import Dataset
from flax_augtl.data.splits.near_copies_table import write_near_copies
from flax_augtl.errors import UserError
from flax_augtl.features.cache import fill, kind_of
from flax_augtl.features.views import test_rows
from flax_augtl.next_steps import next_steps
from flax_augtl.runtime import determinism
from flax_augtl.runtime.paths import absolute
from flax_augtl.runtime.text import duration, for_terminal
from flax_augtl.study import budget_study, selection
from flax_augtl.study.budget import BUDGET, FINALS, TEST, Budget, TooShort
from flax_augtl.study.budget_choices import final_cells, train_finals
from flax_augtl.study.caches import CACHE, TrainingCache, open_cache
from flax_augtl.study.choices import ties, too_few_of
from flax_augtl.study.context import Material, gather
from flax_augtl.study.grid import Cell
from flax_augtl.study.leases import Claims
from flax_augtl.study.overlap import seen_by_other_seeds
from flax_augtl.study.report import terminal_table, write_report
from flax_augtl.study.report.verdict import rising
from flax_augtl.study.result import StudyResult
from flax_augtl.study.results import BEST, keep_best, kept_cell, outcome
from flax_augtl.study.successive_halving import complete, halve
from flax_augtl.study.trials import cost
from flax_augtl.study.trials.worker import CELLS, CLAIMS, PARTIAL, Work
from flax_augtl.training.balance import imbalance
from flax_augtl.training.memory import explain_out_of_memory
from flax_augtl.training.precision import fewer_bits
from flax_augtl.workdir import files

TIMING, DATA = "timing.json", "data.json"


def study(
    config: ConfigDict,
    workdir: os.PathLike | str,
    *,
    dry_run: bool = False,
    part: tuple[int, int] | None = None,
    datasets: Mapping[int, Dataset] | None = None,
) -> StudyResult | None:
    """Find the freeze depth, the learning rate and the head that validation prefers; retrain, test and compare them.

    Finished cells are kept below `workdir`, and the study goes on with what is missing. Several programs may work on
    one workdir of a POSIX file system: they claim cells.

    Args:
      config: see configs/common.py, `config.study`.
      workdir: directory of the study; of a local or shared file system.
      dry_run: print the plan and stop.
      part: (i, n): train only the i-th of n parts of the selecting cells, i from 1, and stop.
      datasets: by seed; takes the place of what `config.data` names.

    Returns:
      What was measured; None after a dry run or a part.

    Raises:
      ValueError: something in the configuration, the data or the weights is wrong, `workdir` holds something else, or
        there is too little memory (`training.memory.OutOfMemory`).
    """
    with explain_out_of_memory(config):
        return _study(typed(config), workdir, dry_run, part, datasets)


def _study(
    config: Config,
    workdir: os.PathLike | str,
    dry_run: bool,
    part: tuple[int, int] | None,
    datasets: Mapping[int, Dataset] | None,
) -> StudyResult | None:
    if config.deterministic:
        determinism.start(workdir)
    folder, begun = _check(config, workdir), time.monotonic()
    config = as_begun(config, folder)
    views_given = config.study.views is not None or bool(config.data.views)
    config = presets.resolved_config(config)
    study = presets.resolved(config.study)
    if part is not None and study.search != presets.GRID:
        raise UserError(
            f"--cells divides the trials of a grid; with config.study.search={study.search!r} later "
            "trials depend on earlier ones. "
            + (
                "Start one program."
                if study.search == presets.BUDGET
                else "Start the same command on every machine instead: the programs share the trials."
            )
        )
    material = gather(config, datasets)
    fingerprints = _fingerprints(folder, material)
    # Only now: what is wrong with a configuration leaves nothing behind.
    files.prepare(folder / CELLS)
    for note in (*material.source.notes, fewer_bits(config.compute_dtype)):
        if note:
            print(note)
    for split, note in ((seed, note) for seed in material.grid.seeds[:1] for note in material.datasets[seed].notes):
        print(f"data (seed {split}): {note}")
    write_near_copies(folder, material.datasets[material.grid.seeds[0]])
    for sentence in seen_by_other_seeds(material.datasets):
        print(sentence)
    labels = material.datasets[material.grid.seeds[0]].train.labels
    for warning in (imbalance(labels, material.class_names, config), too_few_of(material)):
        if warning:
            print(warning, flush=True)
    grid = material.grid
    budget = Budget(folder, study.minutes, begun) if study.minutes else None
    tests = len({name for dataset in material.datasets.values() for name in dataset.test.ids})
    cache = TrainingCache(material, folder, budget_study.rows_of(material), tests, 1e9 * study.cache_gb)
    if budget:
        budget_study.reopen(cache, budget)
    activations = cache.open()
    timed = _timing(material, activations, folder)
    finals = len(grid.heads) if study.finals == "winners" else len({group[:2] for group in grid.groups()})
    if budget:
        try:
            activations, plan = budget_study.prepare(cache, budget, activations, timed, views_given=views_given)
        except TooShort:
            (folder / TIMING).unlink(missing_ok=True)  # The machine may have been busy: the next start times it again.
            raise
        print(plan, flush=True)
    else:
        kept = {name: int(array.nbytes / cache.share) for name, array in activations.store.arrays.items()}
        kind = kind_of(study.cache, folder, study.cache_gb) if kept else "none"
        print(
            cost.describe(grid, timed, rows=len(cache.rows), test_rows=tests, kept=kept, finals=finals, kind=kind),
            flush=True,
        )
    material = cache.material  # With as many views as there is time for.
    if dry_run:
        return None
    _check(config, workdir)  # Another program may have begun a study here while this one timed its own.
    files.write_json(folder / DATA, fingerprints)
    values, path = to_json(config), folder / files.CONFIG
    if path.exists():
        values = added_fields.still_lacking(values, files.read_json(path))
    files.write_json(path, values)
    claims = Claims(folder / CLAIMS, study.lease_seconds)
    room = cache.room * (1 - cache.share)
    try:
        if budget:
            work, found = budget_study.select(cache, budget, activations, timed, claims)
            if not found.chosen:
                raise UserError(_no_result(found.rows))
            for sentence in ties(material, found.rows, found.best):
                print(sentence, flush=True)
            cells = final_cells(grid, found, by_depth=study.finals == "depths")
            result = _finish(material, work, folder, found.rows, found.best, cells, room, budget, found.left_out)
        else:
            activations = fill(activations, claims, "train", cache.open, folder)
            mean = sum(timed.cell_seconds.values()) / len(timed.cell_seconds)
            work = Work(
                material,
                activations,
                folder,
                claims,
                timed,
                later=finals * len(grid.seeds) * mean + tests * timed.row_seconds,
            )
            chosen = _select(material, work, part)
            if part is not None:
                return None
            best, finals = _choices(material, chosen)
            result = _finish(material, work, folder, chosen, best, finals, room)
    finally:
        claims.close()
    write_report(result, folder)
    print("\n" + terminal_table(result))
    if budget:
        budget.save()
    if said := [*([budget.describe()] if budget else []), *result.left_out, *rising(result)]:
        print("\n" + "\n".join(said))
    print(
        for_terminal(
            f"\nThis start took {duration(time.monotonic() - begun)}. The report is "
            f"{folder / files.REPORT}, the table of all trials "
            f"{folder / files.STUDY}.\n{next_steps(folder / 'best')}"
        )
    )
    return result


def as_begun(config: Config, folder: Path) -> Config:
    """Return the configuration with which the study in `folder` goes on; `config` itself where there is none."""
    path = folder / files.CONFIG
    old = files.read_json(path) if path.exists() else None
    if not isinstance(old, Mapping) or not isinstance(old.get("study"), Mapping):
        return config
    config = added_fields.continued(config, old)
    return dataclasses.replace(config, study=presets.as_begun(config.study, old))


def _check(config: Config, workdir: os.PathLike | str) -> Path:
    """Check what can be checked before anything is loaded, and return the study's folder."""
    if "://" in os.fspath(workdir):
        raise UserError(
            f"--workdir={workdir}: a study needs a folder on a local or shared disk, because it maps its "
            f"files into memory."
        )
    presets.resolved(config.study)
    folder = Path(absolute(workdir))
    path = folder / files.CONFIG
    files.check_links(
        folder,
        (
            files.CONFIG,
            files.CHECKPOINTS,
            files.REPORT,
            files.STUDY,
            TIMING,
            DATA,
            BUDGET,
            CELLS,
            CLAIMS,
            CACHE,
            PARTIAL,
            BEST,
        ),
    )
    if (folder / files.CHECKPOINTS).exists():
        raise UserError(f"{folder} holds a run, not a study. Choose another --workdir.")
    if path.exists():
        old = files.read_json(path)
        if not isinstance(old, Mapping) or not isinstance(old.get("study"), Mapping):
            raise UserError(f"{path} is not the configuration of a study. Choose another --workdir.")
        if found := files.differences(
            _lasting(added_fields.filled(old)),
            _lasting(to_json(presets.resolved_config(as_begun(config, folder)))),
        ):
            raise UserError(f"{folder} holds another study:\n  " + "\n  ".join(found) + "\nChoose another --workdir.")
    return folder


def _fingerprints(folder: Path, material: Material) -> dict[str, str]:
    """Return the fingerprints of the data by seed, those of earlier starts among them.

    Raises:
      ValueError: the data of a seed are not what they were: finished cells would stand beside those of other data.
    """
    path, now = folder / DATA, {str(seed): dataset.fingerprint for seed, dataset in material.datasets.items()}
    before = files.read_json(path) if path.exists() else {}
    if not isinstance(before, Mapping) or any(before.get(seed, found) != found for seed, found in now.items()):
        raise UserError(
            f"The data have changed since the study in {folder} was started: images, labels or splits are "
            f"not those of {DATA} there. Restore them, or choose another --workdir."
        )
    return {**before, **now}


def _lasting(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that must not change in mid-study: what is compared may grow, how it is may not."""
    free = {
        "preset",
        "minutes",
        "heads",
        "depths",
        "learning_rates",
        "seeds",
        "selection_seeds",
        "finals",
        "cache",
        "cache_gb",
        "device_gb",
        "together",
        "checkpoint_seconds",
        "lease_seconds",
    }
    return {**values, "study": {name: value for name, value in values["study"].items() if name not in free}}


def _timing(material: Material, activations: Any, folder: Path) -> cost.Timing:
    """Return what was timed in an earlier start of the same grid on the same devices, or time it now."""
    path, key = folder / TIMING, f"{jax.device_count()} {jax.devices()[0].device_kind}"
    limited = material.study.search == presets.BUDGET
    key += ", estimated" if limited else ""
    groups = material.grid.groups()
    if path.exists():
        found = files.read_json(path)
        if known := cost.from_json(found, key, [" ".join(group) for group in groups]):
            return known
    if limited:
        print("Timing one block of images …", flush=True)
        timed = cost.estimate(material, activations, groups)
    else:
        print(f"Timing {len(groups)} pairs of head and depth …", flush=True)
        timed = cost.measure(material, activations, groups)
    files.write_json(path, {"devices": key, **dataclasses.asdict(timed)})
    return timed


def _select(material: Material, work: Work, part: tuple[int, int] | None) -> list[dict[str, Any]]:
    """Return the rows of the selecting cells, edges widened."""
    grid = material.grid
    if material.study.search == "halving":
        return halve(grid, work)
    tried = {group: list(grid.rates) for group in grid.groups()}
    cells = [cell for group, rates in tried.items() for rate in rates for cell in grid.cells(group, rate)]
    if part is not None:
        number, count = part
        # Whole packs, so that they are trained together as they would be in one program.
        packs = work.packs(cells)[number - 1 :: count]
        work.do([cell for pack in packs for cell in pack], wait=False)
        print(f"Part {number} of {count} is finished. When all parts are, give the same command without --cells.")
        return []
    rows = work.do(cells)
    while True:
        new = []
        for group, some in selection.by(rows, "head", "depth", "classifier_rate").items():
            rate = selection.widened(some, tried[group])
            if rate is not None:
                print(
                    f"      {grid.title(group)}: the best learning rate is the lowest or highest one; trying {rate:g} too"
                )
                tried[group].append(rate)
                new += grid.cells(group, rate)
        if not new:
            return rows
        rows += work.do(new)


def _choices(material: Material, rows: list[dict[str, Any]]) -> tuple[str, list[Cell]]:
    """Return the best head, and the final cells of all winners."""
    if material.study.search == "halving":
        rows = complete(rows, len(material.grid.selection_seeds))
    heads = selection.winners(rows, lambda row: row["head"])
    if not heads:
        raise UserError(_no_result(rows))
    best = max(heads, key=lambda name: heads[name]["score"])
    for sentence in ties(material, rows, best):
        print(sentence, flush=True)
    choices = [(name, choice) for name, choice in heads.items()]
    if material.study.finals == "depths":
        by_depth = selection.winners(rows, lambda row: (row["head"], row["depth"]))
        choices += [(name, choice) for (name, _), choice in by_depth.items() if choice not in heads.values()]
    return best, [
        Cell("final", name, choice["depth"], choice["classifier_rate"], choice["learning_rate"], seed, choice["steps"])
        for name, choice in choices
        for seed in material.grid.seeds
    ]


def _no_result(rows: list[dict[str, Any]]) -> str:
    """Return why no cell of a study has a result."""
    errors = sorted({row["error"] for row in rows if row["error"]})
    return "Every trial failed or diverged. " + (
        f"Errors: {'; '.join(errors)}." if errors else "Lower config.study.learning_rates."
    )


def _finish(
    material: Material,
    work: Work,
    folder: Path,
    chosen: list[dict[str, Any]],
    best: str,
    finals: list[Cell],
    room: float,
    budget: Budget | None = None,
    left_out: Sequence[str] = (),
) -> StudyResult:
    """Retrain the winners, and only now look at the test images; within a time budget as many of them as there is time for.

    Args:
      material, work, folder: of the study.
      chosen: rows of the selecting cells.
      best: the head that validation chose.
      finals: the final cells; within a time budget those of the best head first.
      room: bytes of activations that may be kept.
      budget: of time.
      left_out: sentences about what there was no time for.
    """
    rows = test_rows(list(material.datasets.values()), material.preprocessing, material.config.data)

    def again():
        return open_cache(material, rows, "test", folder, room)

    work.later = 0.0
    with budget.part(TEST) if budget else contextlib.nullcontext():
        work.test = fill(again(), work.claims, "test", again, folder)
    winner = next(cell for cell in finals if cell.head == best)
    work.keep = keep_best(material, winner, folder)
    if kept_cell(folder) != winner.name:
        (folder / CELLS / f"{winner.name}.json").unlink(missing_ok=True)  # Its network is what is missing.
    with budget.part(FINALS) if budget else contextlib.nullcontext():
        tested, untested = train_finals(work, budget, finals) if budget else (work.do(finals), [])
    heads = {
        cell.head: {"depth": cell.depth, "learning_rate": cell.learning_rate, "steps": cell.steps}
        for cell in reversed(finals)
    }
    heads = {name: heads[name] for name in material.grid.heads if name in heads}
    return outcome(
        material,
        work,
        folder,
        chosen,
        tested,
        heads,
        best,
        [*left_out, *untested],
        budget.account() if budget else None,
    )
