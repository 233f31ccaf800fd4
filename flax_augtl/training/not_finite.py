"""The error about a loss, a gradient or a parameter that is not finite, and what it tells the user."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flax_augtl.data.loading.sampler import stream
from flax_augtl.errors import UserError
from flax_augtl.runtime.text import columns
from flax_augtl.training.experiment import Experiment
from flax_augtl.training.freezing import FROZEN
from flax_augtl.training.progress import Progress
from flax_augtl.training.state import TrainState


class NotFinite(UserError):
    """The loss or the gradient is not a finite number.

    Attributes:
      position: position of the batch among the global batches of the run.
    """

    def __init__(self, message: str, position: int):
        super().__init__(message)
        self.position = position


@dataclasses.dataclass(frozen=True)
class PendingStep:
    """A step whose scalars the device may still be computing.

    Attributes:
      step: number of the step.
      position: position of its batch.
      scalars: what the compiled step returned besides the state.
      rate: learning rate of pretrained layers.
      seconds: duration of the run up to this step.
    """

    step: int
    position: int
    scalars: Mapping[str, Any]
    rate: float
    seconds: float


def check_parameters(state: TrainState, progress: Progress, experiment: Experiment) -> None:
    """Check the parameters after the last update, before a checkpoint keeps them; the loss would show it a step later.

    Raises:
      NotFinite: a parameter is not finite.
    """
    groups = {
        **state.params.get("source", {}),
        **{name: tree for name, tree in state.params.items() if name != "source"},
    }
    bad = [
        group
        for group, tree in groups.items()
        if group not in experiment.plan.frozen
        and not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))
    ]
    if bad:
        rate = float(experiment.rates[progress.step - 1])
        raise NotFinite(
            f"Step {progress.step} of {experiment.total_steps}: parameters of {', '.join(bad)} are no longer "
            f"finite after its update, at learning rate {rate:.4g}. Lower config.learning_rate, set "
            "config.gradient_clip, or let the rate rise slowly with config.schedule.warmup_steps. Nothing of "
            "this step is kept.",
            progress.position - 1,
        )


def not_finite_message(
    pending: PendingStep, values: Mapping[str, float], norms: Mapping[str, Any], experiment: Experiment
) -> str:
    """Return the message about a step that is not finite: its examples, and the norms of each layer group."""
    gradients, parameters = np.asarray(norms["gradient"]), np.asarray(norms["parameter"])
    rows = [("  layer group", "gradient", "parameters", "(norms, before the step)")]
    rows += [
        (f"  {group}", f"{gradient:.4g}", f"{parameter:.4g}", "")
        for group, label, gradient, parameter in zip(
            experiment.plan.groups, experiment.plan.labels, gradients, parameters, strict=True
        )
        if label != FROZEN
    ]
    return (
        f"Step {pending.step} of {experiment.total_steps}: the loss is {values['loss']}, the norm of the gradient "
        f"{values['gradient_norm']}, at learning rate {pending.rate:.4g} (new layers: "
        f"{pending.rate * experiment.optimizer.new_layer_multiplier:.4g}). Lower config.learning_rate, set "
        "config.gradient_clip, let the rate rise slowly with config.schedule.warmup_steps, or see config.on_nan. "
        f"Nothing of this step is kept.\n{batch_examples(pending, experiment)}\n"
        + columns(rows, align="<>>", least=(14, 12, 12))
    )


def batch_examples(pending: PendingStep, experiment: Experiment, limit: int = 16) -> str:
    """Return a sentence that names the examples of a step's batch, over all processes."""
    examples, size = experiment.dataset.train, experiment.config.batch_size
    which, _ = stream(pending.position * size, (pending.position + 1) * size, len(examples), experiment.config.seed)
    names = [examples.ids[index] for index in which]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"Batch {pending.position} holds {', '.join(names[:limit])}{more}."
