"""Doing cells: claimed, trained in packs, kept as they end, with the time that is left."""

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
from flax_augtl.study.context import Material
from flax_augtl.study.grid import Cell
from flax_augtl.study.leases import Claims
from flax_augtl.study.trials import predictions
from flax_augtl.study.trials.batches import Shape, loops, shape_of
from flax_augtl.study.trials.cost import Timing
from flax_augtl.study.trials.trial_batch import Pack
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


def read_row(path: Path, cell: Cell) -> dict[str, Any]:
    """Read the row of a cell that is done.

    Raises:
      ValueError: it is not whole, not of the kind that it should be, or of another cell.
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
        row[name] == getattr(cell, name)
        for name in ("stage", "head", "depth", "classifier_rate", "learning_rate", "seed")
    )
    try:
        predictions.read(row)
    except ValueError:
        whole = False
    if row["cell"] != cell.name or not whole or not its_own:
        raise UserError(f"{path} is not the row of {cell.name}.")
    for point in row["history"]:
        value_types.check(point, _POINT, tuple(_POINT), f"{path}: history")
    return row


def compilation(shape: Shape) -> Shape:
    """Return a shape without what does not change the compiled programs: trainings of several lengths share them."""
    return dataclasses.replace(shape, total=0, every=0)


def _has_numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(value_types.is_a(value, "number or null") for value in values.values())


class OutOfTime(Exception):
    """A training was stopped: to its end it would take longer than the time that is left."""


@dataclasses.dataclass
class Work:
    """A study's cells, some of them done.

    Attributes:
      material, activations: what all cells share.
      folder: of the study.
      claims: of this worker.
      timed: seconds of the cells; what is measured replaces it.
      test: activations of the test pictures, once the winners are fixed.
      keep: told of each finished pack, before its cells count as done.
      later: seconds that the study will take after the cells at hand, for the time that is left.
      left: gives the seconds that are left of a time budget.
      slowness: how many times longer than its timing large work took so far.
      stopped: names of cells whose training was stopped for want of time.
    """

    material: Material
    activations: Activations
    folder: Path
    claims: Claims
    timed: Timing
    test: Activations | None = None
    keep: Callable[[Pack], None] | None = None
    later: float = 0.0
    left: Callable[[], float] | None = None
    slowness: float = 1.0
    stopped: set[str] = dataclasses.field(default_factory=set)
    _measured: dict[Any, float] = dataclasses.field(default_factory=dict)
    _compiled: dict[Any, float] = dataclasses.field(default_factory=dict)
    _warm: set[Any] = dataclasses.field(default_factory=set)
    _rows: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    _shapes: dict[Cell, Shape] = dataclasses.field(default_factory=dict)

    def row(self, cell: Cell) -> dict[str, Any] | None:
        """Return the row of a cell that is done, or of one that failed in this start; else None."""
        path = self.folder / CELLS / f"{cell.name}.json"
        if cell.name not in self._rows:
            try:
                if path.exists():
                    self._rows[cell.name] = read_row(path, cell)
            except ValueError as error:
                # Not written whole, or not by this program: trained again.
                print(for_terminal(f"{error} It is trained again."), flush=True)
                path.unlink(missing_ok=True)
                return None
        return self._rows.get(cell.name)

    def do(
        self, cells: Sequence[Cell], *, wait: bool = True, room: Callable[[], float] | None = None
    ) -> list[dict[str, Any]]:
        """Train every cell that is not done, and return the rows of all; cells that others claim are waited for.

        Args:
          cells: in the order of the rows.
          wait: for cells of other workers; else their rows are left out.
          room: gives the seconds that are left for a training; one that would take longer is stopped, and has no row.
        """
        failed: dict[str, dict[str, Any]] = {}
        waited = False
        while True:
            missing = [
                cell
                for cell in cells
                if cell.name not in failed and cell.name not in self.stopped and self.row(cell) is None
            ]
            if not missing:
                break
            mine = self._claim(missing, cells)
            if mine:
                failed |= self._train(mine, cells, room)
            elif not wait:
                break
            else:
                if not waited:
                    print(f"Waiting for {len(missing)} trials that other workers train.", flush=True)
                waited = True
                time.sleep(POLL_SECONDS)
        rows = [failed.get(cell.name) or self.row(cell) for cell in cells]
        return [row for row in rows if row is not None]

    def _claim(self, missing: Sequence[Cell], cells: Sequence[Cell]) -> list[Cell]:
        """Claim the first cells of one shape that nobody works on."""
        for pack in self.packs(missing):
            mine = [cell for cell in pack if self.claims.take(cell.name)]
            # Between looking and claiming another worker may have ended it.
            done = [cell for cell in mine if self.row(cell) is not None]
            for cell in done:
                self.claims.release(cell.name)
            if mine := [cell for cell in mine if cell not in done]:
                return mine
        return []

    def packs(self, cells: Iterable[Cell]) -> list[list[Cell]]:
        """Return cells that can be trained together, in lists of as many as are worth it."""
        shapes: dict[Shape, list[Cell]] = {}
        for cell in cells:
            if cell not in self._shapes:
                self._shapes[cell] = shape_of(self.material, self.activations, cell)
            shapes.setdefault(self._shapes[cell], []).append(cell)
        found = []
        for shape, some in shapes.items():
            size = self._together(shape, some[0])
            found += [some[i : i + size] for i in range(0, len(some), size)]
        return found

    def _together(self, shape: Shape, cell: Cell) -> int:
        """Return how many cells of a shape are trained at once."""
        if not loops(self.material, self.activations, shape):
            return 1
        return int(self.material.study.together) or self.timed.together.get(" ".join(cell.group), 1)

    def _size(self, mine: Sequence[Cell]) -> int:
        """Return to how many cells a pack is filled up: to what was compiled before, if compiling anew took longer."""
        name = " ".join(mine[0].group)
        size = self.timed.together.get(name, 1)
        if size <= len(mine) or not loops(
            self.material, self.activations, shape_of(self.material, self.activations, mine[0])
        ):
            return len(mine)
        idle = (size - len(mine)) * self.seconds_of(mine[0])
        return size if idle < self.timed.compile_seconds[name] else len(mine)

    def _train(
        self, mine: Sequence[Cell], cells: Sequence[Cell], room: Callable[[], float] | None
    ) -> dict[str, dict[str, Any]]:
        """Train a pack; return the rows of its cells if it failed."""
        try:
            pack = Pack(self.material, self.activations, mine, size=self._size(mine), test=self.test)
            try:
                self._finish(pack, cells, room)
            finally:
                pack.close()
            return {}
        except OutOfTime as error:
            print(f"      {error}", flush=True)
            self.stopped |= {cell.name for cell in mine}
            return {}
        except files.CannotWrite:
            raise  # No fault of these cells, and nothing that others would be spared.
        except Exception as error:
            sentence = f"{type(error).__name__}: {error}"
            print(
                f"{mine[0].name} and {len(mine) - 1} others failed: {sentence}"
                if len(mine) > 1
                else f"{mine[0].name} failed: {sentence}",
                flush=True,
            )
            files.write_text(self.folder / CELLS / f"{mine[0].name}.error.txt", traceback.format_exc())
            return {cell.name: self._failure(cell, sentence) for cell in mine}
        finally:
            for cell in mine:
                self.claims.release(cell.name)

    def _failure(self, cell: Cell, sentence: str) -> dict[str, Any]:
        return {
            "cell": cell.name,
            **dataclasses.asdict(cell),
            "settings": dataclasses.asdict(self.material.settings(cell)),
            "metric": self.material.metric,
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

    def _finish(self, pack: Pack, cells: Sequence[Cell], room: Callable[[], float] | None) -> None:
        partial = Partial(self.folder / PARTIAL, pack)
        partial.restore()
        key = compilation(pack.shape), len(pack.cells), pack.steps_per_call
        if key not in self._warm and not pack.done:
            self._warm.add(key)
            self._compiled[pack.cells[0].group] = pack.warm_up()
        begun = time.monotonic()
        # Until the cells are written a signal waits: what they have trained would be lost.
        signals.defer()
        try:
            self._run(pack, partial, room)
            if not all(self.claims.holds(cell.name) for cell in pack.cells):
                print(f"{pack.cells[0].name} was taken over by another worker.", flush=True)
                return
            rows = pack.results()
            self._measured[pack.cells[0].group] = (time.monotonic() - begun) / len(rows) / max(pack.shape.total, 1)
            if self.keep:
                self.keep(pack)
            for row in rows:
                # Kept with NaN-free JSON: a diverged cell has no metrics.
                files.write_json(self.folder / CELLS / f"{row['cell']}.json", row)
            partial.remove()
            self._say(rows, cells)
        finally:
            signals.defer_no_more()
        signals.raise_if_alone()

    def _run(self, pack: Pack, partial: Partial, room: Callable[[], float] | None) -> None:
        """Train a pack to its end, with checkpoints between.

        Raises:
          Interrupted: a signal ends the program; the pack is saved as it is.
          OutOfTime: to its end the pack would take longer than `room`.
        """
        saved, often = time.monotonic(), self.material.study.checkpoint_seconds
        begun, first, looked, stop = saved, pack.step, saved, False

        def due() -> bool:
            return signals.requested() or time.monotonic() - saved > often or late()

        def late() -> bool:
            nonlocal looked, stop
            if room is None or stop or pack.step == first or time.monotonic() - looked < POLL_SECONDS:
                return stop
            looked = time.monotonic()
            step = (looked - begun) / (pack.step - first)
            self._measured[pack.cells[0].group] = step / len(pack.cells)
            stop = step * (pack.shape.total - pack.step) > room()
            return stop

        while not pack.done:
            pack.advance(due)
            if not pack.done and due():
                partial.save()
                saved = time.monotonic()
                print(f"  {pack.cells[0].name}: step {pack.step}/{pack.shape.total}", flush=True)
                if signals.requested():
                    raise signals.interrupted()
                if stop:
                    raise OutOfTime(
                        f"{pack.cells[0].name} was stopped: the rest of it would take longer than the time that "
                        "is left."
                    )

    def seconds_of(self, cell: Cell) -> float:
        """Return the seconds that a cell is expected to take, by the timing."""
        full = dataclasses.replace(cell, stage="select", steps=None)
        mean = sum(self.timed.cell_seconds.values()) / len(self.timed.cell_seconds)
        seconds = self.timed.cell_seconds.get(" ".join(cell.group), mean)
        return seconds * (cell.steps or 1) / len(self.material.schedule(full)[0]) if cell.steps else seconds

    def seconds(self, cells: Iterable[Cell]) -> float:
        """Return the seconds that cells will take, by what was measured where it was."""
        return sum(
            self._measured[cell.group] * len(self.material.schedule(cell)[0])
            if cell.group in self._measured
            else self.seconds_of(cell)
            for cell in cells
        )

    def expected(self, cells: Iterable[Cell], *, compilation: bool = True) -> float:
        """Return the seconds that the cells which are not done will take.

        A head that was not trained yet is expected to take what another one took at that depth. A depth that was not
        trained yet is expected to be as much slower than its timing as others with steps of about that cost or more
        were. Without such, it is as slow as `slowness` says, with the surplus that cheaper ones had: what every step
        costs besides.

        Args:
          cells: done or not.
          compilation: count that of what was not compiled yet.
        """
        steps = {group[1:]: value for group, value in self._measured.items()}
        compiled = {group[1:]: value for group, value in self._compiled.items()}
        seconds, new = 0.0, set()
        for cell in cells:
            if self.row(cell) is not None:
                continue
            step = self._measured.get(cell.group, steps.get(cell.group[1:]))
            step = self._guessed(cell.group, self._measured, self._timed_step) if step is None else step
            seconds += step * len(self.material.schedule(cell)[0])
            if cell.group not in self._compiled:
                new.add(cell.group)
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
        cell = Cell("select", *group, self.material.grid.rates[0], self.material.grid.seeds[0])
        return max(self.seconds_of(cell), 1e-9) / len(self.material.schedule(cell)[0])

    def _say(self, rows: Sequence[dict[str, Any]], cells: Sequence[Cell]) -> None:
        missing = [cell for cell in cells if self.row(cell) is None]
        left = duration(max(0.0, self.left()) if self.left else self.seconds(missing) + self.later)
        of = " of the time budget" if self.left else ""
        for row in rows:
            value = row["test"] or row["val"]
            said = (
                "diverged"
                if value is None
                else (f"{'test' if row['test'] else 'validation'} {value[row['metric']]:.4f}")
            )
            print(f"{len(cells) - len(missing):5}/{len(cells)}  {row['cell']:52} {said}  {left}{of} left", flush=True)
