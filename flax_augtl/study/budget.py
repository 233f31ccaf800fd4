"""The time budget of a study, over all of its starts, and what it was spent on."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flax_augtl.config.value_types import is_a
from flax_augtl.errors import UserError
from flax_augtl.runtime.text import duration
from flax_augtl.workdir import files

BUDGET = "budget.json"
PASSES, TRAININGS, TEST, FINALS, OTHER = (
    "passes over the images",
    "trainings that choose",
    "pass over the test images",
    "final trainings",
    "start and report",
)
# For writing and loading the best network, LEEP and figures; and a share of the budget, since a slow machine needs more.
REPORT_SECONDS, REPORT_SHARE = 12.0, 0.02
# If the pass over the images was slower than timed, the reserve for the report grows by at most this factor.
SLOWEST = 3.0
# Largest shares of the remaining time for the passes over the images: to choose the number of views, and at all.
PASSES_SHARE, PASSES_MOST = 0.35, 0.6


class TooShort(UserError):
    """A time budget is too short for the passes over the images."""


class Budget:
    """A time budget, kept in the study's directory."""

    def __init__(self, folder: Path, minutes: float, begun: float):
        """Read what earlier starts spent.

        Args:
          folder: of the study.
          minutes: that the study may take.
          begun: `time.monotonic()` when this start began.
        """
        self.seconds = 60 * minutes
        self._path, self._begun = folder / BUDGET, begun
        found = files.read_json(self._path) if self._path.exists() else {}
        found = found if isinstance(found, Mapping) else {}
        spent = found.get("seconds")
        self._earlier: dict[str, float] = (
            dict(spent) if isinstance(spent, Mapping) and all(is_a(value, "number") for value in spent.values()) else {}
        )
        self._now: dict[str, float] = {}
        views, chosen = found.get("views"), found.get("chosen")
        # These decisions depend on the clock, so a later start must not make them again.
        self.views: int | None = views if is_a(views, "whole number") else None
        depths = found.get("depths")
        self.depths: list[str] = list(depths) if isinstance(depths, list) and is_a(depths, "list of texts") else []
        self.slowness = 1.0  # How many times longer than timed the pass over the images took, at least 1.
        self.planned = bool(self.depths) and self._is_enough(found)
        self.chosen: dict[str, Any] | None = chosen if isinstance(chosen, dict) and self._is_enough(found) else None

    def _is_enough(self, found: Mapping[str, Any]) -> bool:
        """Return whether the earlier choice was made with at least this budget."""
        return is_a(found.get("minutes"), "number") and self.seconds <= 60 * found["minutes"] + 1e-6

    def left(self) -> float:
        """Return the remaining seconds."""
        return self.seconds - sum(self._earlier.values()) - (time.monotonic() - self._begun)

    def report(self) -> float:
        """Return the seconds that are reserved for the report."""
        return min(self.slowness, SLOWEST) * (REPORT_SECONDS + REPORT_SHARE * self.seconds)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time spent in the `with` block to a part of the study, and save it."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._now[name] = self._now.get(name, 0.0) + time.monotonic() - begun
            self.save()

    def account(self) -> dict[str, float]:
        """Return the seconds that each part took, over all starts."""
        now = {**self._now, OTHER: time.monotonic() - self._begun - sum(self._now.values())}
        return {
            name: self._earlier.get(name, 0.0) + now.get(name, 0.0) for name in (PASSES, TRAININGS, TEST, FINALS, OTHER)
        }

    def describe(self) -> str:
        """Return a sentence about the time that was spent, and on what."""
        parts = self.account()
        return (
            f"{duration(sum(parts.values()))} of {self.seconds / 60:g} minutes (config.study.minutes): "
            + ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items())
            + "."
        )

    def save(self) -> None:
        """Save what was spent and decided.

        Raises:
          CannotWrite: the file cannot be written.
        """
        files.write_json(
            self._path,
            {
                "minutes": self.seconds / 60,
                "seconds": self.account(),
                "views": self.views,
                "depths": self.depths,
                "chosen": self.chosen,
            },
        )

    def choose_views(self, images: int, test_images: int, row_seconds: float, most: int, *, given: bool) -> int:
        """Return the number of training views: as many as requested, or fewer if the passes would take too long.

        Args:
          images: number of training and validation images.
          test_images: number of test images.
          row_seconds: seconds for one image in one view.
          most: number of views without a time budget; 0 without random augmentation.
          given: whether the user asked for that number.

        Raises:
          TooShort: the passes over the images would take most of the budget.
        """
        if self.views is not None:
            return min(self.views, most)

        def passes(views: int) -> float:
            return (images * (views + 1) + test_images) * row_seconds

        left = self.left() - self.report()
        views = next((views for views in range(most, 0, -1) if passes(views) <= PASSES_SHARE * left), min(most, 1))
        views = most if given else views
        if passes(views) > PASSES_MOST * left:
            needed = (passes(views) / PASSES_MOST + self.report() + self.seconds - self.left()) / 60
            advice = "give fewer config.study.views, " if given and most > 1 else ""
            raise TooShort(
                f"config.study.minutes={self.seconds / 60:g} is too short: the passes over {images + test_images} images "
                f"alone take about {passes(views) / 60:.1f} minutes. Set config.study.minutes to {needed + 0.5:.0f} or more "
                f"(0 for no budget), {advice}or lower config.image_size or config.data.shots."
            )
        return views
