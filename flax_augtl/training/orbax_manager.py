"""Orbax's checkpoint manager and its policy of what to keep, adapted to runs."""

import orbax.checkpoint as ocp


class BestAndLast(ocp.checkpoint_managers.PreservationPolicy):
    """Keep the newest checkpoints, and the best ones as of the newest and of the one before it."""

    def __init__(self, last: int):
        # Until the newest has its checksums, only the one before it can be restored.
        self._last = max(last, 2)
        self._best: tuple[int | None, int | None] = (None, None)

    def best_is(self, step: int | None) -> None:
        """Set the best step for the next checkpoint; if that is damaged, the one before still has its own best step."""
        self._best = (self._best[1], step)

    def should_preserve(self, checkpoints, *, context):
        """Return which checkpoints to keep."""
        newest = {info.step for info in list(checkpoints)[-self._last :]}
        return [info.step in newest or info.step in self._best for info in checkpoints]


class Manager(ocp.CheckpointManager):
    """Orbax's manager without its own check for a preemption, `reached_preemption`.

    Orbax asks JAX with the number of the checkpoint's step, also from its own threads, and so sets back the number that
    `signals.requested` asks with. The processes could then agree on a step that one of them has already passed, and
    wait for each other forever.
    """

    def reached_preemption(self, step: int) -> bool:
        """Return False."""
        return False
