"""Learning rate schedules, and the optimizer, which has one transform per label of the freezing plan."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_augtl.config.durations import in_steps
from flax_augtl.config.optimizers import OPTIMIZERS
from flax_augtl.config.schedules import SCHEDULES, Span
from flax_augtl.config.schema import Config, ScheduleConfig
from flax_augtl.errors import UserError
from flax_augtl.training.freezing import FROZEN, NEW, PRETRAINED, FreezingPlan
from flax_augtl.training.methods.places import Places


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Settings of the optimizer without the learning rate, so that all rates share one compiled step.

    Attributes:
      name: one of `OPTIMIZERS`.
      momentum: momentum of `sgd`.
      weight_decay: decay of kernels, coupled in `sgd` and decoupled in `adamw`; biases, norms and scales have none.
      gradient_clip: largest global norm of the gradient of the trainable parameters; 0 for no limit.
      new_layer_multiplier: learning rate of new layers divided by that of pretrained layers.
      places: what methods plug into the rule of pretrained layers.
    """

    name: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    gradient_clip: float = 0.0
    new_layer_multiplier: float = 10.0
    places: Places = Places()  # It is frozen.


def optimizer_of(config: Config, places: Places = Places()) -> OptimizerSettings:  # noqa: B008  # It is frozen.
    """Return the settings of the optimizer.

    Args:
      config: the configuration.
      places: what methods plug into it, under the plan of what is frozen.
    """
    return OptimizerSettings(
        config.optimizer,
        config.momentum,
        config.weight_decay,
        config.gradient_clip,
        config.new_layer_multiplier,
        dataclasses.replace(places, losses=(), normalisation=None, subset=None),  # Others read these.
    )


def create_optimizer(settings: OptimizerSettings, plan: FreezingPlan) -> optax.GradientTransformation:
    """Return the transform from gradients to updates for a learning rate of 1.

    Frozen parameters get an update of exactly zero, weight decay included. New parameters get `new_layer_multiplier`
    times the update of pretrained ones. The transform takes whole trees, or the trainable partition alone
    (`FreezingPlan.partition`), for which it keeps no state of frozen parameters.
    """

    def kernels(params):
        return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)

    decay = [optax.add_decayed_weights(settings.weight_decay, mask=kernels)] if settings.weight_decay else []
    row = OPTIMIZERS[settings.name]
    found = row.transform(settings)
    transform = [getattr(optax, found[0])(**found[1])] if found else []

    def rule_with(decay):
        return (transform + decay if row.decoupled else decay + transform) or [optax.identity()]

    rule, places = rule_with(decay), settings.places
    pretrained = optax.chain(*rule_with([pull.transform() for pull in places.pulls] or decay))
    for method in places.around:
        pretrained = method.around(pretrained)
    if places.group_rates is not None:
        pretrained = optax.chain(pretrained, _scaled_by_group(places.group_rates.factors(plan)))
    labelled = optax.multi_transform(
        {
            FROZEN: optax.set_to_zero(),
            PRETRAINED: pretrained,
            NEW: optax.chain(*rule, optax.scale(settings.new_layer_multiplier)),
        },
        plan.label_tree,
    )
    if settings.gradient_clip:
        return optax.chain(optax.clip_by_global_norm(settings.gradient_clip), labelled)
    return labelled


def _scaled_by_group(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Return a transform that multiplies the update of each parameter by the factor of its layer group."""

    def scaled(updates, params=None):
        return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * factors[path[1].key], updates)

    return optax.stateless(scaled)


def learning_rates(
    schedule: ScheduleConfig, learning_rate: float, total_steps: int, *, warmup: int = 0, boundaries: Sequence[int] = ()
) -> np.ndarray:
    """Return the learning rate of pretrained layers at every step, float32 [total_steps].

    Args:
      schedule: `config.schedule`.
      learning_rate: the highest learning rate.
      total_steps: length of the run in steps.
      warmup: number of steps over which the rate rises linearly to the highest.
      boundaries: the steps at which the schedule `step` lowers the rate.

    Raises:
      UserError: the schedule `step` has no boundaries, or the warm-up is not shorter than the run.
    """
    if warmup >= total_steps:
        raise UserError(
            f"Warm-up (config.schedule.warmup_…) takes {warmup} steps, but the run has only {total_steps}. "
            "Lower it, or train longer."
        )
    # Boundaries count from the start of the run.
    span = Span(learning_rate, total_steps - warmup, [step - warmup for step in boundaries], schedule)
    row = SCHEDULES[schedule.name]
    main = getattr(optax, row.optax)(*row.arguments(span))
    if warmup:
        rise = optax.linear_schedule(learning_rate / warmup, learning_rate, max(warmup - 1, 1))
        main = optax.join_schedules([rise, main], [warmup])
    return np.asarray(jax.vmap(main)(np.arange(total_steps)), np.float32)


def schedule_of(config: Config, examples: int) -> tuple[np.ndarray, int]:
    """Return the learning rate at every step, float32 [total steps], and the steps between two evaluations.

    Args:
      config: the configuration; its lengths and its schedule are read.
      examples: number of training examples.

    Raises:
      UserError: the run has no length, or the schedule does not fit it.
    """
    lengths = {"examples": examples, "batch_size": config.batch_size}
    total = in_steps(config, "", **lengths)
    if not total:
        raise UserError("The run has no length: set one of config.steps, config.epochs, config.examples above 0.")
    rates = learning_rates(
        config.schedule,
        config.learning_rate,
        total,
        warmup=in_steps(config.schedule, "warmup", **lengths) or 0,
        boundaries=in_steps(config.schedule, "boundaries", **lengths) or (),
    )
    return rates, in_steps(config, "evaluate_every", **lengths) or math.ceil(examples / config.batch_size - 1e-6)
