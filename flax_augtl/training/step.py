"""One step of training and of evaluation: functions of (state, batch), and, only here, their `jax.pmap`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flax_augtl.data.augment import augment
from flax_augtl.data.mix import mix
from flax_augtl.data.pool import cut
from flax_augtl.freezing import FreezingPlan, merge
from flax_augtl.network import AugmentedNetwork
from flax_augtl.pretrained import Preprocessing
from flax_augtl.training.metrics import evaluation_sums
from flax_augtl.training.optimizer import OptimizerSettings, create_optimizer
from flax_augtl.training.state import TrainState

AXIS = "batch"


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """Settings of the training step.

    Attributes:
      label_smoothing: share of the probability that is spread evenly over all classes.
      class_weights: weight of each class in the loss; () for equal ones.
      accumulate: micro-batches into which a device's share of the batch is cut. Trainable batch norm then normalises by
        the statistics of one micro-batch over all devices.
      flip, shift, jitter, erase: see `data.augment.augment`.
      mixup, cutmix: see `data.mix.mix`.
      view_seed: of their draws.
      skip_not_finite: leave the state as it was where the loss or the gradient is not finite.
      pool: crop and interpolation of a data set that lives on the device (`data.pool`); None if pictures come in batches.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    accumulate: int = 1
    flip: bool = False
    shift: int = 0
    jitter: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    view_seed: int = 0
    skip_not_finite: bool = False
    pool: tuple[str, str] | None = None


def cross_entropy(logits: jax.Array, targets: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Return the cross-entropy of each example, float32 [N], for logits [N, C] and probabilities [N, C]."""
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))


def train_step(state: TrainState, batch: Mapping[str, jax.Array], learning_rate: jax.Array,
               pool: Mapping[str, jax.Array] | None = None, *,
               network: AugmentedNetwork, plan: FreezingPlan, optimizer: optax.GradientTransformation,
               preprocessing: Preprocessing, settings: StepSettings,
               axis_name: str) -> tuple[TrainState, dict[str, jax.Array]]:
    """Take one step of gradient descent on this device's share of a batch.

    Args:
      state: the same on every device.
      batch: `image` uint8 [b, H, W, 3], `label` int32 [b], `id` and `view` [b] for the random draws; of a pool `index`
        and `box` instead of `image`.
      learning_rate: float32 scalar, of pretrained layers.
      pool: `images` and `sizes` of a data set that lives on the device.
      network, plan, optimizer, preprocessing, settings: what the step is made of.
      axis_name: axis of the devices.

    Returns:
      The state after the step, equal on every device, and scalars of the global batch before it: `loss` (with label
      smoothing and class weights), `top1`, `gradient_norm` of what trains; and `norms`, float32 [layer groups], of each
      group's `gradient` and, before the step, of its trainable `parameter`s.
    """
    trainable, frozen = plan.partition(state.params)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    class_weights = jnp.asarray(settings.class_weights or 1.0, jnp.float32)

    def weights_of(labels):
        return class_weights[labels] if settings.class_weights else jnp.ones(labels.shape, jnp.float32)

    # The weights are summed over the global batch first, so that the mean over devices is the mean over examples.
    total_weight = jax.lax.pmean(jnp.sum(weights_of(batch["label"])), axis_name)

    def pictures(micro):
        if settings.pool is None:
            images = micro["image"]
        else:
            crop, method = settings.pool
            images = cut(pool["images"], pool["sizes"], micro["index"], micro["box"], crop=crop, method=method,
                         image_size=preprocessing.image_size)
        draws = {"ids": micro["id"], "views": micro["view"], "view_seed": settings.view_seed}
        images = augment(images, **draws, flip=settings.flip, shift=settings.shift, jitter=settings.jitter,
                         erase=settings.erase)
        targets = jax.nn.one_hot(micro["label"], network.head.num_classes)
        return mix(images, targets, **draws, mixup=settings.mixup, cutmix=settings.cutmix, axis_name=axis_name)

    def loss_of(trainable, batch_stats, micro, key):
        images, targets = pictures(micro)
        variables = {"params": merge(trainable, frozen), "batch_stats": batch_stats}
        logits, changed = network.apply(variables, preprocessing.normalise(images), train_from=plan.depth,
                                        rngs={"dropout": key}, mutable=["batch_stats"])
        losses = cross_entropy(logits, targets, settings.label_smoothing) * weights_of(micro["label"])
        correct = jnp.mean(jnp.argmax(logits, -1) == micro["label"]) / settings.accumulate
        # A network without batch norm changes nothing; its collection stays the empty one.
        return jnp.sum(losses) / total_weight, (changed.get("batch_stats", batch_stats), correct)

    gradient_of = jax.value_and_grad(loss_of, has_aux=True)
    if settings.accumulate == 1:
        (loss, (batch_stats, correct)), gradient = gradient_of(trainable, state.batch_stats, batch, key)
    else:
        def accumulate(carry, micro):
            batch_stats, gradient, loss, correct, index = carry
            (more, (batch_stats, right)), delta = gradient_of(trainable, batch_stats, micro,
                                                              jax.random.fold_in(key, index))
            return (batch_stats, jax.tree.map(jnp.add, gradient, delta), loss + more, correct + right, index + 1), None

        micros = jax.tree.map(lambda x: x.reshape(settings.accumulate, -1, *x.shape[1:]), dict(batch))
        zeros = jax.tree.map(jnp.zeros_like, trainable)
        # The sums start as device-varying values, which they are from the first addition on.
        start = jax.lax.pcast((zeros, jnp.float32(0), jnp.float32(0)), axis_name, to="varying")
        (batch_stats, gradient, loss, correct, _), _ = jax.lax.scan(
            accumulate, (state.batch_stats, *start, jnp.int32(0)), micros)

    gradient, loss, correct = jax.lax.pmean((gradient, loss, correct), axis_name)
    updates, opt_state = optimizer.update(gradient, state.opt_state, trainable)
    updates = jax.tree.map(lambda update: -learning_rate * update, updates)
    after = (optax.apply_updates(trainable, updates), batch_stats, opt_state)
    norms = {"gradient": plan.norms(gradient), "parameter": plan.norms(trainable)}
    norm = jnp.linalg.norm(norms["gradient"])
    if settings.skip_not_finite:
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after,
                             (trainable, state.batch_stats, state.opt_state))
    params, batch_stats, opt_state = after
    state = state.replace(step=state.step + 1, params=merge(params, frozen), batch_stats=batch_stats, opt_state=opt_state)
    return state, {"loss": loss, "top1": correct, "gradient_norm": norm, "norms": norms}


def predict_step(variables: Any, images: jax.Array, *, network: AugmentedNetwork,
                 preprocessing: Preprocessing) -> jax.Array:
    """Return the class probabilities, float32 [N, num_classes], of uint8 pictures [N, H, W, 3]."""
    return jax.nn.softmax(network.apply(variables, preprocessing.normalise(images)))


def eval_step(variables: Any, batch: Mapping[str, jax.Array], *, network: AugmentedNetwork,
              preprocessing: Preprocessing, axis_name: str) -> dict[str, jax.Array]:
    """Return sums over the global batch of what the metrics are made of (`metrics.evaluation_sums`).

    Args:
      variables: of the network.
      batch: `image` uint8 [b, H, W, 3], `label` int32 [b], `mask` float32 [b], 0 where the batch is padded.
    """
    logits = network.apply(variables, preprocessing.normalise(batch["image"]))
    losses = cross_entropy(logits, jax.nn.one_hot(batch["label"], logits.shape[-1]))
    return jax.lax.psum(evaluation_sums(logits, losses, batch["label"], batch["mask"]), axis_name)


# Cells of a study differ in seed, rate and schedule only: one compiled step serves them all.
@functools.lru_cache(maxsize=64)
def pmapped_train_step(network: AugmentedNetwork, plan: FreezingPlan, optimizer: OptimizerSettings,
                       preprocessing: Preprocessing, settings: StepSettings) -> Callable:
    """Return `train_step` over all local devices: (state, batch [devices, b, ...], rate, pool) -> (state, scalars).

    State, pool and scalars are not stacked: they go in and come out once, and the state given is used up.
    """
    step = functools.partial(train_step, network=network, plan=plan, optimizer=create_optimizer(optimizer, plan),
                             preprocessing=preprocessing, settings=settings, axis_name=AXIS)
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None, None), out_axes=None, donate_argnums=(0,))


@functools.lru_cache(maxsize=64)
def pmapped_eval_step(network: AugmentedNetwork, preprocessing: Preprocessing) -> Callable:
    """Return `eval_step` over all local devices: (variables, batch [devices, b, ...]) -> sums."""
    step = functools.partial(eval_step, network=network, preprocessing=preprocessing, axis_name=AXIS)
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None)


@functools.lru_cache(maxsize=8)
def compiled_predict_step(network: AugmentedNetwork, preprocessing: Preprocessing) -> Callable:
    """Return `predict_step` compiled for one device."""
    return jax.jit(functools.partial(predict_step, network=network, preprocessing=preprocessing))


def replicate(tree: Any) -> Any:
    """Put a copy of every array on every local device, as the pmapped steps leave their own state."""
    mesh = jax.sharding.Mesh(jax.local_devices(), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def split_over_devices(batch: Mapping[str, Any], devices: int) -> dict[str, Any]:
    """Reshape every array [b, ...] of a host's batch to [devices, b / devices, ...].

    Raises:
      ValueError: b does not divide by the devices.
    """
    size = len(batch["label"])
    if size % devices:
        raise ValueError(f"A batch of {size} pictures does not divide by {devices} devices: set config.batch_size to a "
                         f"multiple of {devices}.")
    return {name: array.reshape(devices, -1, *array.shape[1:]) for name, array in batch.items()}
