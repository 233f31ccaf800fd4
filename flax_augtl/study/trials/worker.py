"""Train trials: lease them, train them in batches, and write their rows."""

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flax_augtl.features.activations import Activations
from flax_augtl.runtime import signals
from flax_augtl.runtime.text import duration, for_terminal
from flax_augtl.study.context import Context
from flax_augtl.study.grid import Trial
from flax_augtl.study.leases import Leases
from flax_augtl.study.trials.batches import StepSignature, loops, signature_of
from flax_augtl.study.trials.closed_form_batch import ClosedFormBatch
from flax_augtl.study.trials.rows import read_row, write_row
from flax_augtl.study.trials.time_estimate import TimeEstimate
from flax_augtl.study.trials.trial_batch import TrialBatch
from flax_augtl.study.trials.trial_checkpoint import Partial
from flax_augtl.workdir import files

CELLS, CLAIMS, PARTIAL = "cells", "claims", "partial"
POLL_SECONDS = 1.0


def compilation(signature: StepSignature) -> StepSignature:
    """Return a signature without the lengths, which do not change the compiled step."""
    return dataclasses.replace(signature, total=0, every=0)


class OutOfTime(Exception):
    """A training was stopped, because finishing it would take longer than the remaining time."""


@dataclasses.dataclass
class Work:
    """The trials of a study, some of them finished.

    Attributes:
      context: what all trials share.
      activations: of the training and validation images.
      folder: of the study.
      leases: of this worker; None for a plan, which trains nothing.
      times: estimates how long trials take.
      test: activations of the test images, once the winners are fixed.
      keep: called with each trained batch before its rows are written.
      later: seconds that the study needs after the current trials, for the printed time left.
      left: returns the remaining seconds of a time budget.
      stopped: names of trials that were stopped for lack of time.
    """

    context: Context
    activations: Activations
    folder: Path
    leases: Leases | None
    times: TimeEstimate
    test: Activations | None = None
    keep: Callable[[TrialBatch], None] | None = None
    later: float = 0.0
    left: Callable[[], float] | None = None
    stopped: set[str] = dataclasses.field(default_factory=set)
    _warm: set[Any] = dataclasses.field(default_factory=set)
    _rows: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    _signatures: dict[Trial, StepSignature] = dataclasses.field(default_factory=dict)

    @property
    def _held(self) -> Leases:
        assert self.leases is not None, "a plan trains nothing"
        return self.leases

    def row(self, trial: Trial) -> dict[str, Any] | None:
        """Return the row of a finished trial; None if it is not finished."""
        path = self.folder / CELLS / f"{trial.name}.json"
        if trial.name not in self._rows:
            try:
                if path.exists():
                    self._rows[trial.name] = read_row(path, trial)
            except ValueError as error:
                print(for_terminal(f"{error} It is trained again."), flush=True)
                path.unlink(missing_ok=True)
                return None
        return self._rows.get(trial.name)

    def do(
        self, trials: Sequence[Trial], *, wait: bool = True, room: Callable[[], float] | None = None
    ) -> list[dict[str, Any]]:
        """Train every unfinished trial that no other worker trains, wait for the others, and return the rows.

        Args:
          trials: in the order of the rows.
          wait: whether to wait for trials of other workers; otherwise their rows are missing.
          room: returns the seconds left for a training; one that would take longer is stopped and has no row.
        """
        failed: dict[str, dict[str, Any]] = {}
        waited = False
        while True:
            missing = [
                trial
                for trial in trials
                if trial.name not in failed and trial.name not in self.stopped and self.row(trial) is None
            ]
            if not missing:
                break
            mine = self._take(missing)
            if mine:
                failed |= self._train(mine, trials, room)
            elif not wait:
                break
            else:
                if not waited:
                    print(f"Waiting for {len(missing)} trials that other workers train.", flush=True)
                waited = True
                time.sleep(POLL_SECONDS)
        rows = [failed.get(trial.name) or self.row(trial) for trial in trials]
        return [row for row in rows if row is not None]

    def _take(self, missing: Sequence[Trial]) -> list[Trial]:
        """Take the leases of the first batch that no other worker trains; return its trials."""
        for batch in self.trial_batches(missing):
            mine = [trial for trial in batch if self._held.take(trial.name)]
            # Another worker may have finished it in the meantime.
            done = [trial for trial in mine if self.row(trial) is not None]
            for trial in done:
                self._held.release(trial.name)
            if mine := [trial for trial in mine if trial not in done]:
                return mine
        return []

    def trial_batches(self, trials: Iterable[Trial]) -> list[list[Trial]]:
        """Divide trials into batches that are trained together."""
        signatures: dict[StepSignature, list[Trial]] = {}
        for trial in trials:
            if trial not in self._signatures:
                self._signatures[trial] = signature_of(self.context, self.activations, trial)
            signatures.setdefault(self._signatures[trial], []).append(trial)
        found = []
        for signature, some in signatures.items():
            size = self._together(signature, some[0])
            found += [some[i : i + size] for i in range(0, len(some), size)]
        return found

    def _together(self, signature: StepSignature, trial: Trial) -> int:
        """Return how many trials of a signature are trained together."""
        if not loops(self.activations, signature):
            return 1
        return int(self.context.study.together) or self.times.timed.together.get(" ".join(trial.group), 1)

    def _size(self, mine: Sequence[Trial]) -> int:
        """Return the size to fill a batch up to: the one that is compiled already, if compiling another takes longer."""
        name = " ".join(mine[0].group)
        size = self.times.timed.together.get(name, 1)
        signature = signature_of(self.context, self.activations, mine[0])
        if size <= len(mine) or not loops(self.activations, signature):
            return len(mine)
        idle = (size - len(mine)) * self.times.seconds_of(mine[0])
        return size if idle < self.times.timed.compile_seconds[name] else len(mine)

    def _train(
        self, mine: Sequence[Trial], trials: Sequence[Trial], room: Callable[[], float] | None
    ) -> dict[str, dict[str, Any]]:
        """Train a batch; return the rows of its trials if it failed.

        Args:
          mine: trials of the batch.
          trials: all trials at hand, for the printed progress.
          room: see `do`.
        """
        try:
            kind = ClosedFormBatch if self.context.settings(mine[0]).closed_form else TrialBatch
            batch = kind(self.context, self.activations, mine, size=self._size(mine), test=self.test)
            try:
                self._finish(batch, trials, room)
            finally:
                batch.close()
            return {}
        except OutOfTime as error:
            print(f"      {error}", flush=True)
            self.stopped |= {trial.name for trial in mine}
            return {}
        except files.CannotWrite:
            raise  # These trials did nothing wrong, and others would fail, too.
        except Exception as error:
            sentence = f"{type(error).__name__}: {error}"
            print(
                f"{mine[0].name} and {len(mine) - 1} others failed: {sentence}"
                if len(mine) > 1
                else f"{mine[0].name} failed: {sentence}",
                flush=True,
            )
            files.write_text(self.folder / CELLS / f"{mine[0].name}.error.txt", traceback.format_exc())
            return {trial.name: self._failure(trial, sentence) for trial in mine}
        finally:
            for trial in mine:
                self._held.release(trial.name)

    def _failure(self, trial: Trial, sentence: str) -> dict[str, Any]:
        """Return the row of a trial that failed with an error."""
        return {
            "cell": trial.name,
            **dataclasses.asdict(trial),
            "settings": dataclasses.asdict(self.context.settings(trial)),
            "method": self.context.grid.rival(trial.head).method,
            "metric": self.context.metric,
            "val": None,
            "test": None,
            "predicted": None,
            "best_step": None,
            "seconds": 0.0,
            "examples_seen": 0,
            "trainable": 0,
            "history": [],
            "change": {},
            "diverged": False,
            "error": sentence,
            "together": 1,
            "start": 0,
        }

    def _finish(self, batch: TrialBatch, trials: Sequence[Trial], room: Callable[[], float] | None) -> None:
        """Resume or start a batch, train it to its end, and write its rows."""
        partial = Partial(self.folder / PARTIAL, batch)
        partial.restore()
        key = compilation(batch.signature), len(batch.trials), batch.steps_per_call
        if key not in self._warm and not batch.done:
            self._warm.add(key)
            self.times.compiled[batch.trials[0].group] = batch.warm_up()
        begun = time.monotonic()
        # A signal waits until the rows or a checkpoint are written, so that no training is lost.
        signals.defer()
        try:
            self._run(batch, partial, room)
            if not all(self._held.holds(trial.name) for trial in batch.trials):
                print(f"{batch.trials[0].name} was taken over by another worker.", flush=True)
                return
            rows = batch.results()
            self.times.measured[batch.trials[0].group] = (
                (time.monotonic() - begun) / len(rows) / max(batch.signature.total, 1)
            )
            if self.keep:
                self.keep(batch)
            for row in rows:
                write_row(self.folder / CELLS / f"{row['cell']}.json", row)
            partial.remove()
            self._print(rows, trials)
        finally:
            signals.defer_no_more()
        signals.raise_if_alone()

    def _run(self, batch: TrialBatch, partial: Partial, room: Callable[[], float] | None) -> None:
        """Train a batch to its end, and write checkpoints on the way.

        Raises:
          Interrupted: a signal ends the program; a checkpoint was written.
          OutOfTime: the rest would take longer than `room`; a checkpoint was written.
        """
        saved, often = time.monotonic(), self.context.study.checkpoint_seconds
        begun, first, looked, stop = saved, batch.step, saved, False

        def due() -> bool:
            return signals.requested() or time.monotonic() - saved > often or late()

        def late() -> bool:
            nonlocal looked, stop
            if room is None or stop or batch.step == first or time.monotonic() - looked < POLL_SECONDS:
                return stop
            looked = time.monotonic()
            step = (looked - begun) / (batch.step - first)
            self.times.measured[batch.trials[0].group] = step / len(batch.trials)
            stop = step * (batch.signature.total - batch.step) > room()
            return stop

        while not batch.done:
            batch.advance(due)
            if not batch.done and due():
                partial.save()
                saved = time.monotonic()
                print(f"  {batch.trials[0].name}: step {batch.step}/{batch.signature.total}", flush=True)
                if signals.requested():
                    raise signals.interrupted()
                if stop:
                    raise OutOfTime(
                        f"{batch.trials[0].name} was stopped: the rest of it would take longer than the time that "
                        "is left."
                    )

    def expected(self, trials: Iterable[Trial], *, compilation: bool = True) -> float:
        """Return the seconds that those of some trials which are unfinished will take; see `TimeEstimate`."""
        missing = [trial for trial in trials if self.row(trial) is None]
        return self.times.expected(missing, compilation=compilation)

    def _print(self, rows: Sequence[dict[str, Any]], trials: Sequence[Trial]) -> None:
        missing = [trial for trial in trials if self.row(trial) is None]
        left = duration(max(0.0, self.left()) if self.left else self.times.seconds(missing) + self.later)
        of = " of the time budget" if self.left else ""
        for row in rows:
            value = row["test"] or row["val"]
            said = (
                "diverged"
                if value is None
                else (f"{'test' if row['test'] else 'validation'} {value[row['metric']]:.4f}")
            )
            print(f"{len(trials) - len(missing):5}/{len(trials)}  {row['cell']:52} {said}  {left}{of} left", flush=True)
