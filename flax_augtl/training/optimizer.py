"""Schedules of the learning rate, and the optimizer with one transform a label."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_augtl.config.schema import ScheduleConfig
from flax_augtl.errors import UserError
from flax_augtl.training.freezing import FROZEN, NEW, PRETRAINED, FreezingPlan


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Settings of the optimizer; the learning rate is not among them, so that one compiled step serves all rates.

    Attributes:
      name: `sgd` (Nesterov momentum) or `adamw`.
      momentum: of `sgd`.
      weight_decay: of kernels; biases, norms and scales have none. Coupled in `sgd`, decoupled in `adamw`.
      gradient_clip: largest global norm of the gradient of what trains; 0 for no limit.
      new_layer_multiplier: learning rate of new layers over that of pretrained ones.
    """

    name: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    gradient_clip: float = 0.0
    new_layer_multiplier: float = 10.0


def create_optimizer(settings: OptimizerSettings, plan: FreezingPlan) -> optax.GradientTransformation:
    """Return the transform from gradients to updates for a learning rate of 1.

    `optax.multi_transform` gives frozen parameters an update of exactly zero, weight decay included, and new ones
    `new_layer_multiplier` times the update of pretrained ones. It takes whole trees and, equally, the trainable
    partition alone (`FreezingPlan.partition`), for which it keeps no state of frozen parameters.
    """

    def kernels(params):
        return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)

    decay = optax.add_decayed_weights(settings.weight_decay, mask=kernels) if settings.weight_decay else None
    if settings.name == "sgd":
        rule = [decay, optax.trace(settings.momentum, nesterov=True) if settings.momentum else None]
    else:
        rule = [optax.scale_by_adam(), decay]
    rule = [transform for transform in rule if transform is not None] or [optax.identity()]
    labelled = optax.multi_transform(
        {
            FROZEN: optax.set_to_zero(),
            PRETRAINED: optax.chain(*rule),
            NEW: optax.chain(*rule, optax.scale(settings.new_layer_multiplier)),
        },
        plan.label_tree,
    )
    if settings.gradient_clip:
        return optax.chain(optax.clip_by_global_norm(settings.gradient_clip), labelled)
    return labelled


def learning_rates(
    schedule: ScheduleConfig, learning_rate: float, total_steps: int, *, warmup: int = 0, boundaries: Sequence[int] = ()
) -> np.ndarray:
    """Return the learning rate of pretrained layers at every step, float32 [total_steps].

    Args:
      schedule: `config.schedule`: `name` (one of `SCHEDULES`), `final` (of `cosine`: the last rate as a share of the
        first), `factor` (of `step`: what the rate is multiplied by at every boundary).
      learning_rate: the highest rate.
      total_steps: length of the run.
      warmup: steps over which the rate rises linearly to the highest.
      boundaries: of `step`: the steps at which the rate falls.

    Raises:
      ValueError: the schedule is unknown, lacks boundaries, or warm-up is not shorter than the run.
    """
    if warmup >= total_steps:
        raise UserError(
            f"Warm-up (config.schedule.warmup_…) takes {warmup} steps, but the run has only {total_steps}. "
            "Lower it, or train longer."
        )
    if schedule.name == "cosine":
        main = optax.cosine_decay_schedule(learning_rate, total_steps - warmup, alpha=schedule.final)
    elif schedule.name == "step":
        if not boundaries:
            raise UserError(
                "config.schedule.name='step' needs config.schedule.boundaries_epochs (or _steps, _examples)."
            )
        scales: dict[int, float] = {}
        for step in boundaries:  # Epochs can be so short that two boundaries fall on one step.
            scales[step - warmup] = scales.get(step - warmup, 1.0) * schedule.factor
        main = optax.piecewise_constant_schedule(learning_rate, scales)
    else:
        main = optax.constant_schedule(learning_rate)
    if warmup:
        rise = optax.linear_schedule(learning_rate / warmup, learning_rate, max(warmup - 1, 1))
        main = optax.join_schedules([rise, main], [warmup])
    return np.asarray(jax.vmap(main)(np.arange(total_steps)), np.float32)
