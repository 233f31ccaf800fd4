"""The layer-wise study: the paper's experiment, from a plan to a report and the best network."""

import contextlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from flax_augtl.config import presets
from flax_augtl.config.convert import typed
from flax_augtl.config.schema import Config
from flax_augtl.data import Dataset
from flax_augtl.data.splits.near_copies_table import write_near_copies
from flax_augtl.errors import UserError
from flax_augtl.features.activations import Activations
from flax_augtl.features.cache import fill, place_of
from flax_augtl.features.views import test_rows
from flax_augtl.next_steps import next_steps
from flax_augtl.runtime import determinism
from flax_augtl.runtime.text import duration, for_terminal
from flax_augtl.study import budget_study
from flax_augtl.study.budget import FINALS, TEST, Budget, TooShort
from flax_augtl.study.budget_choices import final_trials, train_finals
from flax_augtl.study.caches import TrainingCache, open_cache
from flax_augtl.study.choices import ties, too_few_of
from flax_augtl.study.context import Context, gather
from flax_augtl.study.grid import Trial
from flax_augtl.study.grid_search import chosen_trials, no_result, select
from flax_augtl.study.leases import Leases
from flax_augtl.study.overlap import seen_by_other_seeds
from flax_augtl.study.report import terminal_table, write_report
from flax_augtl.study.report.verdict import rising
from flax_augtl.study.result import StudyResult
from flax_augtl.study.results import keep_best, kept_trial, outcome
from flax_augtl.study.stand_ins import StandIns, stand_ins
from flax_augtl.study.study_folder import TIMING, as_begun, check_folder, fingerprints, write_start
from flax_augtl.study.trials import cost
from flax_augtl.study.trials.time_estimate import TimeEstimate
from flax_augtl.study.trials.worker import CELLS, CLAIMS, Work
from flax_augtl.training.balance import imbalance
from flax_augtl.training.memory import explain_out_of_memory
from flax_augtl.training.precision import fewer_bits
from flax_augtl.workdir import files


def study(
    config: ConfigDict,
    workdir: os.PathLike | str,
    *,
    dry_run: bool = False,
    part: tuple[int, int] | None = None,
    datasets: Mapping[int, Dataset] | None = None,
) -> StudyResult | None:
    """Find the head, freeze depth and learning rate that validation prefers; retrain, test and compare them.

    Finished trials are kept below `workdir`; another start trains only the missing ones. Several programs may work on
    one workdir of a POSIX file system. They share the trials by leases.

    Args:
      config: of the study; `config.study` says what to compare.
      workdir: directory of the study, on a local or shared file system.
      dry_run: print the plan and stop. Random weights and blank images take the place of what is not there.
      part: (i, n): train only the i-th of n parts of the selecting trials, counted from 1, and stop.
      datasets: by seed; replaces what `config.data` names.

    Returns:
      What was measured; None after a dry run or a part.

    Raises:
      UserError: the configuration, the data or the weights are invalid, `workdir` holds something else, or there is
        too little memory (`training.memory.OutOfMemory`).
    """
    values = typed(config)
    with explain_out_of_memory(values):
        if dry_run and (missing := stand_ins(values, datasets)):
            _plan_with(missing, values, datasets)
            return None
        return _study(values, workdir, dry_run, part, datasets)


def _plan_with(missing: StandIns, config: Config, datasets: Mapping[int, Dataset] | None) -> None:
    """Print the plan of a study whose weights or data are not there; it leaves nothing behind."""
    for note in missing.notes:
        print(note, flush=True)
    with tempfile.TemporaryDirectory(prefix="flax-augtl-plan-") as folder:
        _study(config, folder, True, None, missing.datasets or datasets, missing)


def _study(
    config: Config,
    workdir: os.PathLike | str,
    dry_run: bool,
    part: tuple[int, int] | None,
    datasets: Mapping[int, Dataset] | None,
    missing: StandIns | None = None,
) -> StudyResult | None:
    if config.deterministic:
        determinism.start(workdir)
    folder, begun = check_folder(config, workdir), time.monotonic()
    config = as_begun(config, folder)
    views_given = config.study.views is not None or bool(config.data.views)
    config = presets.resolved_config(config)
    study = presets.resolved(config.study)
    if part is not None:
        _check_divisible(study.search)
    context = gather(config, datasets, random_weights=missing is not None and missing.random_weights)
    data = fingerprints(folder, context)
    # Only now, so that an invalid configuration leaves nothing behind.
    files.prepare(folder / CELLS)
    _print_notes(context, folder)
    grid = context.grid
    budget = Budget(folder, study.minutes, begun) if study.minutes else None
    tests = len({name for dataset in context.datasets.values() for name in dataset.test.ids})
    cache = TrainingCache(context, folder, budget_study.rows_of(context), tests, 1e9 * study.cache_gb)
    if budget:
        budget_study.reopen(cache, budget)
    activations = cache.open()
    timed = _timing(context, activations, folder, estimated=budget is not None or missing is not None)
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
        place = place_of(study.cache, folder, study.cache_gb) if kept else "none"
        print(
            cost.describe(grid, timed, rows=len(cache.rows), test_rows=tests, kept=kept, finals=finals, place=place),
            flush=True,
        )
    context = cache.context  # With as many views as there is time for.
    if dry_run:
        return None
    check_folder(config, workdir)  # Another program may have begun a study here while this one timed its own.
    write_start(folder, config, data)
    leases = Leases(folder / CLAIMS, study.lease_seconds)
    room = cache.room * (1 - cache.share)
    try:
        if budget:
            work, found = budget_study.select(cache, budget, activations, timed, leases)
            if found.best is None:
                raise UserError(no_result(found.rows))
            for sentence in ties(context, found.rows, found.best):
                print(sentence, flush=True)
            trials = final_trials(grid, found, by_depth=study.finals == "depths")
            result = _finish(work, leases, found.rows, found.best, trials, room, budget=budget, left_out=found.left_out)
        else:
            activations = fill(activations, leases, "train", cache.open, folder)
            mean = sum(timed.trial_seconds.values()) / len(timed.trial_seconds)
            later = finals * len(grid.seeds) * mean + tests * timed.row_seconds
            work = Work(context, activations, folder, leases, TimeEstimate(context, timed), later=later)
            chosen = select(work, part)
            if part is not None:
                return None
            best, trials = chosen_trials(context, chosen)
            result = _finish(work, leases, chosen, best, trials, room)
    finally:
        leases.close()
    _report(result, folder, budget, time.monotonic() - begun)
    return result


def _check_divisible(search: str) -> None:
    """Check that the trials of a study can be divided among programs beforehand.

    Raises:
      UserError: later trials depend on earlier ones.
    """
    if search == presets.GRID:
        return
    raise UserError(
        f"--cells divides the trials of a grid; with config.study.search={search!r} later "
        "trials depend on earlier ones. "
        + (
            "Start one program."
            if search == presets.BUDGET
            else "Start the same command on every machine instead: the programs share the trials."
        )
    )


def _print_notes(context: Context, folder: Path) -> None:
    """Print notes and warnings about the weights and the data, and write the table of near-copies."""
    config, seed = context.config, context.grid.seeds[0]
    dataset = context.datasets[seed]
    for note in (*context.source.notes, fewer_bits(config.compute_dtype)):
        if note:
            print(note)
    for note in dataset.notes:
        print(f"data (seed {seed}): {note}")
    write_near_copies(epath.Path(folder), dataset)
    for sentence in seen_by_other_seeds(context.datasets):
        print(sentence)
    for warning in (imbalance(dataset.train.labels, context.class_names, config), too_few_of(context)):
        if warning:
            print(warning, flush=True)


def _report(result: StudyResult, folder: Path, budget: Budget | None, seconds: float) -> None:
    """Write the report of a study, and print its summary.

    Args:
      result: what the study measured.
      folder: of the study.
      budget: of time, if there is one.
      seconds: that this start took.
    """
    write_report(result, folder)
    print("\n" + terminal_table(result))
    if budget:
        budget.save()
    if said := [*([budget.describe()] if budget else []), *result.left_out, *rising(result)]:
        print("\n" + "\n".join(said))
    print(
        for_terminal(
            f"\nThis start took {duration(seconds)}. The report is {folder / files.REPORT}, the table of all trials "
            f"{folder / files.STUDY}.\n{next_steps(folder / 'best')}"
        )
    )


def _timing(context: Context, activations: Activations, folder: Path, *, estimated: bool) -> cost.Timing:
    """Return the timing of an earlier start with the same grid and devices, or measure it now.

    Args:
      context: of the study.
      activations: of the training and validation images.
      folder: of the study.
      estimated: time one block of images and one head only, and estimate the rest.
    """
    path, key = folder / TIMING, f"{jax.device_count()} {jax.devices()[0].device_kind}"
    key += ", estimated" if estimated else ""
    groups = context.grid.groups()
    if path.exists():
        found = files.read_json(path)
        if known := cost.from_json(found, key, [" ".join(group) for group in groups]):
            return known
    if estimated:
        print("Timing one block of images …", flush=True)
        timed = cost.estimate(context, activations, groups)
    else:
        print(f"Timing {len(groups)} pairs of head and depth …", flush=True)
        timed = cost.measure(context, activations, groups)
    files.write_json(path, cost.to_json(timed, key))
    return timed


def _finish(
    work: Work,
    leases: Leases,
    chosen: list[dict[str, Any]],
    best: str,
    finals: list[Trial],
    room: float,
    *,
    budget: Budget | None = None,
    left_out: Sequence[str] = (),
) -> StudyResult:
    """Retrain the winners and test them; only now the test images are read.

    Args:
      work: of the study.
      leases: of this worker.
      chosen: rows of the selecting trials.
      best: the head that validation chose.
      finals: the final trials; with a time budget, those of the best head first, and the rest if there is time.
      room: bytes of activations that may be kept.
      budget: of time.
      left_out: sentences about what there was no time for.
    """
    context, folder = work.context, work.folder
    rows = test_rows(list(context.datasets.values()), context.preprocessing, context.config.data)

    def reopen() -> Activations:
        return open_cache(context, rows, "test", folder, room)

    work.later = 0.0
    with budget.part(TEST) if budget else contextlib.nullcontext():
        work.test = fill(reopen(), leases, "test", reopen, folder)
    winner = next(trial for trial in finals if trial.head == best)
    work.keep = keep_best(context, winner, folder)
    if kept_trial(folder) != winner.name:
        (folder / CELLS / f"{winner.name}.json").unlink(missing_ok=True)  # Its network is missing: train it again.
    with budget.part(FINALS) if budget else contextlib.nullcontext():
        tested, untested = train_finals(work, budget, finals) if budget else (work.do(finals), [])
    heads = {
        trial.head: {"depth": trial.depth, "learning_rate": trial.learning_rate, "steps": trial.steps}
        for trial in reversed(finals)
    }
    return outcome(
        work,
        chosen,
        tested,
        {name: heads[name] for name in context.grid.heads if name in heads},
        best,
        [*left_out, *untested],
        account=budget.account() if budget else {},
    )
