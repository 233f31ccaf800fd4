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
from flax_augtl.study.budget_choices import final_trials, train_finals
from flax_augtl.study.caches import CACHE, TrainingCache, open_cache
from flax_augtl.study.choices import ties, too_few_of
from flax_augtl.study.context import Context, gather
from flax_augtl.study.grid import Trial
from flax_augtl.study.leases import Leases
from flax_augtl.study.overlap import seen_by_other_seeds
from flax_augtl.study.report import terminal_table, write_report
from flax_augtl.study.report.verdict import rising
from flax_augtl.study.result import StudyResult
from flax_augtl.study.results import BEST, keep_best, kept_trial, outcome
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

    Finished trials are kept below `workdir`, and the study goes on with what is missing. Several programs may work on
    one workdir of a POSIX file system: they claim trials.

    Args:
      config: see configs/common.py, `config.study`.
      workdir: directory of the study; of a local or shared file system.
      dry_run: print the plan and stop.
      part: (i, n): train only the i-th of n parts of the selecting trials, i from 1, and stop.
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
    context = gather(config, datasets)
    fingerprints = _fingerprints(folder, context)
    # Only now: what is wrong with a configuration leaves nothing behind.
    files.prepare(folder / CELLS)
    for note in (*context.source.notes, fewer_bits(config.compute_dtype)):
        if note:
            print(note)
    for split, note in ((seed, note) for seed in context.grid.seeds[:1] for note in context.datasets[seed].notes):
        print(f"data (seed {split}): {note}")
    write_near_copies(folder, context.datasets[context.grid.seeds[0]])
    for sentence in seen_by_other_seeds(context.datasets):
        print(sentence)
    labels = context.datasets[context.grid.seeds[0]].train.labels
    for warning in (imbalance(labels, context.class_names, config), too_few_of(context)):
        if warning:
            print(warning, flush=True)
    grid = context.grid
    budget = Budget(folder, study.minutes, begun) if study.minutes else None
    tests = len({name for dataset in context.datasets.values() for name in dataset.test.ids})
    cache = TrainingCache(context, folder, budget_study.rows_of(context), tests, 1e9 * study.cache_gb)
    if budget:
        budget_study.reopen(cache, budget)
    activations = cache.open()
    timed = _timing(context, activations, folder)
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
    context = cache.context  # With as many views as there is time for.
    if dry_run:
        return None
    _check(config, workdir)  # Another program may have begun a study here while this one timed its own.
    files.write_json(folder / DATA, fingerprints)
    values, path = to_json(config), folder / files.CONFIG
    if path.exists():
        values = added_fields.still_lacking(values, files.read_json(path))
    files.write_json(path, values)
    leases = Leases(folder / CLAIMS, study.lease_seconds)
    room = cache.room * (1 - cache.share)
    try:
        if budget:
            work, found = budget_study.select(cache, budget, activations, timed, leases)
            if not found.chosen:
                raise UserError(_no_result(found.rows))
            for sentence in ties(context, found.rows, found.best):
                print(sentence, flush=True)
            trials = final_trials(grid, found, by_depth=study.finals == "depths")
            result = _finish(context, work, folder, found.rows, found.best, trials, room, budget, found.left_out)
        else:
            activations = fill(activations, leases, "train", cache.open, folder)
            mean = sum(timed.trial_seconds.values()) / len(timed.trial_seconds)
            work = Work(
                context,
                activations,
                folder,
                leases,
                timed,
                later=finals * len(grid.seeds) * mean + tests * timed.row_seconds,
            )
            chosen = _select(context, work, part)
            if part is not None:
                return None
            best, finals = _choices(context, chosen)
            result = _finish(context, work, folder, chosen, best, finals, room)
    finally:
        leases.close()
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


def _fingerprints(folder: Path, context: Context) -> dict[str, str]:
    """Return the fingerprints of the data by seed, those of earlier starts among them.

    Raises:
      ValueError: the data of a seed are not what they were: finished trials would stand beside those of other data.
    """
    path, now = folder / DATA, {str(seed): dataset.fingerprint for seed, dataset in context.datasets.items()}
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


def _timing(context: Context, activations: Any, folder: Path) -> cost.Timing:
    """Return what was timed in an earlier start of the same grid on the same devices, or time it now."""
    path, key = folder / TIMING, f"{jax.device_count()} {jax.devices()[0].device_kind}"
    limited = context.study.search == presets.BUDGET
    key += ", estimated" if limited else ""
    groups = context.grid.groups()
    if path.exists():
        found = files.read_json(path)
        if known := cost.from_json(found, key, [" ".join(group) for group in groups]):
            return known
    if limited:
        print("Timing one block of images …", flush=True)
        timed = cost.estimate(context, activations, groups)
    else:
        print(f"Timing {len(groups)} pairs of head and depth …", flush=True)
        timed = cost.measure(context, activations, groups)
    files.write_json(path, cost.to_json(timed, key))
    return timed


def _select(context: Context, work: Work, part: tuple[int, int] | None) -> list[dict[str, Any]]:
    """Return the rows of the selecting trials, edges widened."""
    grid = context.grid
    if context.study.search == "halving":
        return halve(grid, work)
    tried = {group: list(grid.rates) for group in grid.groups()}
    trials = [trial for group, rates in tried.items() for rate in rates for trial in grid.trials(group, rate)]
    if part is not None:
        number, count = part
        # Whole packs, so that they are trained together as they would be in one program.
        trial_batches = work.trial_batches(trials)[number - 1 :: count]
        work.do([trial for trial_batch in trial_batches for trial in trial_batch], wait=False)
        print(f"Part {number} of {count} is finished. When all parts are, give the same command without --cells.")
        return []
    rows = work.do(trials)
    while True:
        new = []
        for group, some in selection.by(rows, "head", "depth", "classifier_rate").items():
            rate = selection.widened(some, tried[group])
            if rate is not None:
                print(
                    f"      {grid.title(group)}: the best learning rate is the lowest or highest one; trying {rate:g} too"
                )
                tried[group].append(rate)
                new += grid.trials(group, rate)
        if not new:
            return rows
        rows += work.do(new)


def _choices(context: Context, rows: list[dict[str, Any]]) -> tuple[str, list[Trial]]:
    """Return the best head, and the final trials of all winners."""
    if context.study.search == "halving":
        rows = complete(rows, len(context.grid.selection_seeds))
    heads = selection.winners(rows, lambda row: row["head"])
    if not heads:
        raise UserError(_no_result(rows))
    best = max(heads, key=lambda name: heads[name]["score"])
    for sentence in ties(context, rows, best):
        print(sentence, flush=True)
    choices = [(name, choice) for name, choice in heads.items()]
    if context.study.finals == "depths":
        by_depth = selection.winners(rows, lambda row: (row["head"], row["depth"]))
        choices += [(name, choice) for (name, _), choice in by_depth.items() if choice not in heads.values()]
    return best, [
        Trial("final", name, choice["depth"], choice["classifier_rate"], choice["learning_rate"], seed, choice["steps"])
        for name, choice in choices
        for seed in context.grid.seeds
    ]


def _no_result(rows: list[dict[str, Any]]) -> str:
    """Return why no trial of a study has a result."""
    errors = sorted({row["error"] for row in rows if row["error"]})
    return "Every trial failed or diverged. " + (
        f"Errors: {'; '.join(errors)}." if errors else "Lower config.study.learning_rates."
    )


def _finish(
    context: Context,
    work: Work,
    folder: Path,
    chosen: list[dict[str, Any]],
    best: str,
    finals: list[Trial],
    room: float,
    budget: Budget | None = None,
    left_out: Sequence[str] = (),
) -> StudyResult:
    """Retrain the winners, and only now look at the test images; within a time budget as many of them as there is time for.

    Args:
      context, work, folder: of the study.
      chosen: rows of the selecting trials.
      best: the head that validation chose.
      finals: the final trials; within a time budget those of the best head first.
      room: bytes of activations that may be kept.
      budget: of time.
      left_out: sentences about what there was no time for.
    """
    rows = test_rows(list(context.datasets.values()), context.preprocessing, context.config.data)

    def again():
        return open_cache(context, rows, "test", folder, room)

    work.later = 0.0
    with budget.part(TEST) if budget else contextlib.nullcontext():
        work.test = fill(again(), work.leases, "test", again, folder)
    winner = next(trial for trial in finals if trial.head == best)
    work.keep = keep_best(context, winner, folder)
    if kept_trial(folder) != winner.name:
        (folder / CELLS / f"{winner.name}.json").unlink(missing_ok=True)  # Its network is what is missing.
    with budget.part(FINALS) if budget else contextlib.nullcontext():
        tested, untested = train_finals(work, budget, finals) if budget else (work.do(finals), [])
    heads = {
        trial.head: {"depth": trial.depth, "learning_rate": trial.learning_rate, "steps": trial.steps}
        for trial in reversed(finals)
    }
    heads = {name: heads[name] for name in context.grid.heads if name in heads}
    return outcome(
        context,
        work,
        folder,
        chosen,
        tested,
        heads,
        best,
        [*left_out, *untested],
        budget.account() if budget else None,
    )
