"""Doing trials: claimed, trained in packs, kept as they end, with the time that is left."""

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax_augtl.config import value_types
from flax_augtl.errors import UserError
from flax_augtl.features.activations import Activations
from flax_augtl.runtime import signals
from flax_augtl.runtime.text import duration, for_terminal
from flax_augtl.study.context import Context
from flax_augtl.study.grid import Trial
from flax_augtl.study.leases import Leases
from flax_augtl.study.trials import predictions
from flax_augtl.study.trials.batches import StepSignature, loops, signature_of
from flax_augtl.study.trials.cost import Timing
from flax_augtl.study.trials.trial_batch import TrialBatch
from flax_augtl.study.trials.trial_checkpoint import Partial
from flax_augtl.workdir import files

Group = tuple[str, str, str]
CELLS, CLAIMS, PARTIAL = "cells", "claims", "partial"
POLL_SECONDS = 1.0
# Steps that take at least such a part of the time of others tell how much slower than timed those will be.
ALIKE = 0.1


_ROW = {
    "cell": "text",
    "stage": "text",
    "head": "text",
    "depth": "text",
    "classifier_rate": "text",
    "metric": "text",
    "learning_rate": "number",
    "seconds": "number",
    "seed": "whole number",
    "steps": "whole number",
    "examples_seen": "whole number",
    "trainable": "whole number",
    "best_step": "whole number or null",
    "diverged": "true or false",
    "error": "text or null",
}
_POINT = {
    "step": "whole number",
    "examples": "whole number",
    "seconds": "number",
    "loss": "number or null",
    "val": "number or null",
    "val_loss": "number or null",
}


def read_row(path: Path, trial: Trial) -> dict[str, Any]:
    """Read the row of a trial that is done.

    Raises:
      ValueError: it is not whole, not of the kind that it should be, or of another trial.
    """
    row = files.read_json(path)
    value_types.check(row, _ROW, tuple(_ROW), str(path))
    whole = (
        isinstance(row.get("settings"), dict)
        and _has_numbers(row.get("change"))
        and all(
            name in row
            and (
                row[name] is None
                or _has_numbers(row[name])
                and value_types.is_a(row[name].get(row["metric"]), "number")
            )
            for name in ("val", "test")
        )
        and isinstance(row.get("history"), list)
    )
    its_own = all(
        row[name] == getattr(trial, name)
        for name in ("stage", "head", "depth", "classifier_rate", "learning_rate", "seed")
    )
    try:
        predictions.read(row)
    except ValueError:
        whole = False
    if row["cell"] != trial.name or not whole or not its_own:
        raise UserError(f"{path} is not the row of {trial.name}.")
    for point in row["history"]:
        value_types.check(point, _POINT, tuple(_POINT), f"{path}: history")
    return row


def compilation(signature: StepSignature) -> StepSignature:
    """Return a shape without what does not change the compiled programs: trainings of several lengths share them."""
    return dataclasses.replace(signature, total=0, every=0)


def _has_numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(value_types.is_a(value, "number or null") for value in values.values())


class OutOfTime(Exception):
    """A training was stopped: to its end it would take longer than the time that is left."""


@dataclasses.dataclass
class Work:
    """A study's trials, some of them done.

    Attributes:
      context, activations: what all trials share.
      folder: of the study.
      leases: of this worker.
      timed: seconds of the trials; what is measured replaces it.
      test: activations of the test images, once the winners are fixed.
      keep: told of each finished pack, before its trials count as done.
      later: seconds that the study will take after the trials at hand, for the time that is left.
      left: gives the seconds that are left of a time budget.
      slowness: how many times longer than its timing large work took so far.
      stopped: names of trials whose training was stopped for want of time.
    """

    context: Context
    activations: Activations
    folder: Path
    leases: Leases
    timed: Timing
    test: Activations | None = None
    keep: Callable[[TrialBatch], None] | None = None
    later: float = 0.0
    left: Callable[[], float] | None = None
    slowness: float = 1.0
    stopped: set[str] = dataclasses.field(default_factory=set)
    _measured: dict[Any, float] = dataclasses.field(default_factory=dict)
    _compiled: dict[Any, float] = dataclasses.field(default_factory=dict)
    _warm: set[Any] = dataclasses.field(default_factory=set)
    _rows: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    _signatures: dict[Trial, StepSignature] = dataclasses.field(default_factory=dict)

    def row(self, trial: Trial) -> dict[str, Any] | None:
        """Return the row of a trial that is done, or of one that failed in this start; else None."""
        path = self.folder / CELLS / f"{trial.name}.json"
        if trial.name not in self._rows:
            try:
                if path.exists():
                    self._rows[trial.name] = read_row(path, trial)
            except ValueError as error:
                # Not written whole, or not by this program: trained again.
                print(for_terminal(f"{error} It is trained again."), flush=True)
                path.unlink(missing_ok=True)
                return None
        return self._rows.get(trial.name)

    def do(
        self, trials: Sequence[Trial], *, wait: bool = True, room: Callable[[], float] | None = None
    ) -> list[dict[str, Any]]:
        """Train every trial that is not done, and return the rows of all; trials that others claim are waited for.

        Args:
          trials: in the order of the rows.
          wait: for trials of other workers; else their rows are left out.
          room: gives the seconds that are left for a training; one that would take longer is stopped, and has no row.
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
            mine = self._take(missing, trials)
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

    def _take(self, missing: Sequence[Trial], trials: Sequence[Trial]) -> list[Trial]:
        """Claim the first trials of one shape that nobody works on."""
        for trial_batch in self.trial_batches(missing):
            mine = [trial for trial in trial_batch if self.leases.take(trial.name)]
            # Between looking and claiming another worker may have ended it.
            done = [trial for trial in mine if self.row(trial) is not None]
            for trial in done:
                self.leases.release(trial.name)
            if mine := [trial for trial in mine if trial not in done]:
                return mine
        return []

    def trial_batches(self, trials: Iterable[Trial]) -> list[list[Trial]]:
        """Return trials that can be trained together, in lists of as many as are worth it."""
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
        """Return how many trials of a shape are trained at once."""
        if not loops(self.context, self.activations, signature):
            return 1
        return int(self.context.study.together) or self.timed.together.get(" ".join(trial.group), 1)

    def _size(self, mine: Sequence[Trial]) -> int:
        """Return to how many trials a pack is filled up: to what was compiled before, if compiling anew took longer."""
        name = " ".join(mine[0].group)
        size = self.timed.together.get(name, 1)
        if size <= len(mine) or not loops(
            self.context, self.activations, signature_of(self.context, self.activations, mine[0])
        ):
            return len(mine)
        idle = (size - len(mine)) * self.seconds_of(mine[0])
        return size if idle < self.timed.compile_seconds[name] else len(mine)

    def _train(
        self, mine: Sequence[Trial], trials: Sequence[Trial], room: Callable[[], float] | None
    ) -> dict[str, dict[str, Any]]:
        """Train a pack; return the rows of its trials if it failed."""
        try:
            trial_batch = TrialBatch(self.context, self.activations, mine, size=self._size(mine), test=self.test)
            try:
                self._finish(trial_batch, trials, room)
            finally:
                trial_batch.close()
            return {}
        except OutOfTime as error:
            print(f"      {error}", flush=True)
            self.stopped |= {trial.name for trial in mine}
            return {}
        except files.CannotWrite:
            raise  # No fault of these trials, and nothing that others would be spared.
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
                self.leases.release(trial.name)

    def _failure(self, trial: Trial, sentence: str) -> dict[str, Any]:
        return {
            "cell": trial.name,
            **dataclasses.asdict(trial),
            "settings": dataclasses.asdict(self.context.settings(trial)),
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

    def _finish(self, trial_batch: TrialBatch, trials: Sequence[Trial], room: Callable[[], float] | None) -> None:
        partial = Partial(self.folder / PARTIAL, trial_batch)
        partial.restore()
        key = compilation(trial_batch.signature), len(trial_batch.trials), trial_batch.steps_per_call
        if key not in self._warm and not trial_batch.done:
            self._warm.add(key)
            self._compiled[trial_batch.trials[0].group] = trial_batch.warm_up()
        begun = time.monotonic()
        # Until the trials are written a signal waits: what they have trained would be lost.
        signals.defer()
        try:
            self._run(trial_batch, partial, room)
            if not all(self.leases.holds(trial.name) for trial in trial_batch.trials):
                print(f"{trial_batch.trials[0].name} was taken over by another worker.", flush=True)
                return
            rows = trial_batch.results()
            self._measured[trial_batch.trials[0].group] = (
                (time.monotonic() - begun) / len(rows) / max(trial_batch.signature.total, 1)
            )
            if self.keep:
                self.keep(trial_batch)
            for row in rows:
                # Kept with NaN-free JSON: a diverged trial has no metrics.
                files.write_json(self.folder / CELLS / f"{row['cell']}.json", row)
            partial.remove()
            self._say(rows, trials)
        finally:
            signals.defer_no_more()
        signals.raise_if_alone()

    def _run(self, trial_batch: TrialBatch, partial: Partial, room: Callable[[], float] | None) -> None:
        """Train a pack to its end, with checkpoints between.

        Raises:
          Interrupted: a signal ends the program; the pack is saved as it is.
          OutOfTime: to its end the pack would take longer than `room`.
        """
        saved, often = time.monotonic(), self.context.study.checkpoint_seconds
        begun, first, looked, stop = saved, trial_batch.step, saved, False

        def due() -> bool:
            return signals.requested() or time.monotonic() - saved > often or late()

        def late() -> bool:
            nonlocal looked, stop
            if room is None or stop or trial_batch.step == first or time.monotonic() - looked < POLL_SECONDS:
                return stop
            looked = time.monotonic()
            step = (looked - begun) / (trial_batch.step - first)
            self._measured[trial_batch.trials[0].group] = step / len(trial_batch.trials)
            stop = step * (trial_batch.signature.total - trial_batch.step) > room()
            return stop

        while not trial_batch.done:
            trial_batch.advance(due)
            if not trial_batch.done and due():
                partial.save()
                saved = time.monotonic()
                print(
                    f"  {trial_batch.trials[0].name}: step {trial_batch.step}/{trial_batch.signature.total}", flush=True
                )
                if signals.requested():
                    raise signals.interrupted()
                if stop:
                    raise OutOfTime(
                        f"{trial_batch.trials[0].name} was stopped: the rest of it would take longer than the time that "
                        "is left."
                    )

    def seconds_of(self, trial: Trial) -> float:
        """Return the seconds that a trial is expected to take, by the timing."""
        full = dataclasses.replace(trial, stage="select", steps=None)
        mean = sum(self.timed.trial_seconds.values()) / len(self.timed.trial_seconds)
        seconds = self.timed.trial_seconds.get(" ".join(trial.group), mean)
        return seconds * (trial.steps or 1) / len(self.context.schedule(full)[0]) if trial.steps else seconds

    def seconds(self, trials: Iterable[Trial]) -> float:
        """Return the seconds that trials will take, by what was measured where it was."""
        return sum(
            self._measured[trial.group] * len(self.context.schedule(trial)[0])
            if trial.group in self._measured
            else self.seconds_of(trial)
            for trial in trials
        )

    def expected(self, trials: Iterable[Trial], *, compilation: bool = True) -> float:
        """Return the seconds that the trials which are not done will take.

        A head that was not trained yet is expected to take what another one took at that depth. A depth that was not
        trained yet is expected to be as much slower than its timing as others with steps of about that cost or more
        were. Without such, it is as slow as `slowness` says, with the surplus that cheaper ones had: what every step
        costs besides.

        Args:
          trials: done or not.
          compilation: count that of what was not compiled yet.
        """
        steps = {group[1:]: value for group, value in self._measured.items()}
        compiled = {group[1:]: value for group, value in self._compiled.items()}
        seconds, new = 0.0, set()
        for trial in trials:
            if self.row(trial) is not None:
                continue
            step = self._measured.get(trial.group, steps.get(trial.group[1:]))
            step = self._guessed(trial.group, self._measured, self._timed_step) if step is None else step
            seconds += step * len(self.context.schedule(trial)[0])
            if trial.group not in self._compiled:
                new.add(trial.group)
        return seconds + compilation * sum(
            compiled.get(group[1:], self._guessed(group, self._compiled, self._timed_compilation)) for group in new
        )

    def _guessed(self, group: Group, measured: Mapping[Group, float], timed: Callable[[Group], float]) -> float:
        """Return the seconds that something is expected to take which was measured for other groups only."""
        alike = [other for other in measured if timed(other) >= ALIKE * timed(group)]
        if alike:
            largest = max(alike, key=timed)
            return measured[largest] / timed(largest) * timed(group)
        surplus = max((seconds - self.slowness * timed(other) for other, seconds in measured.items()), default=0.0)
        return self.slowness * timed(group) + max(surplus, 0.0)

    def _timed_compilation(self, group: tuple[str, str, str]) -> float:
        return max(self.timed.compile_seconds.get(" ".join(group), 0.0), 1e-9)

    def _timed_step(self, group: tuple[str, str, str]) -> float:
        """Return the seconds that a step of a group takes by the timing, evaluation included."""
        trial = Trial("select", *group, self.context.grid.rates[0], self.context.grid.seeds[0])
        return max(self.seconds_of(trial), 1e-9) / len(self.context.schedule(trial)[0])

    def _say(self, rows: Sequence[dict[str, Any]], trials: Sequence[Trial]) -> None:
        missing = [trial for trial in trials if self.row(trial) is None]
        left = duration(max(0.0, self.left()) if self.left else self.seconds(missing) + self.later)
        of = " of the time budget" if self.left else ""
        for row in rows:
            value = row["test"] or row["val"]
            said = (
                "diverged"
                if value is None
                else (f"{'test' if row['test'] else 'validation'} {value[row['metric']]:.4f}")
            )
            print(f"{len(trials) - len(missing):5}/{len(trials)}  {row['cell']:52} {said}  {left}{of} left", flush=True)
