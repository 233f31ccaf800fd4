"""One step of training and of evaluation: functions of (state, batch), and, only here, their `jax.pmap`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flax_augtl.data.images.augment import augment
from flax_augtl.data.images.mixup import mix
from flax_augtl.data.loading.device_dataset import cut
from flax_augtl.errors import UserError
from flax_augtl.models.augmented import AugmentedNetwork
from flax_augtl.pretrained import Preprocessing
from flax_augtl.training.freezing import FreezingPlan, merge
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
      flip, shift, jitter, erase, rotate, blur: see `data.augment.augment`.
      mixup, cutmix: see `data.mix.mix`.
      view_seed: of their draws.
      skip_not_finite: leave the state as it was where the loss or the gradient is not finite.
      pool: crop and interpolation of a data set that lives on the device (`data.pool`); None if pictures come in
        batches.
      start: index of the layer group that reads the inputs, where these are kept activations, or finished views (0),
        and not pictures that are still to be augmented; None for those.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    accumulate: int = 1
    flip: str | bool = "none"
    shift: int = 0
    jitter: float = 0.0
    erase: float = 0.0
    rotate: float | str = 0.0
    blur: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    view_seed: int = 0
    skip_not_finite: bool = False
    pool: tuple[str, str] | None = None
    start: int | None = None


def cross_entropy(logits: jax.Array, targets: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Return the cross-entropy of each example, float32 [N], for logits [N, C] and probabilities [N, C]."""
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))


def train_step(
    state: TrainState,
    batch: Mapping[str, jax.Array],
    learning_rate: jax.Array,
    pool: Mapping[str, jax.Array] | None = None,
    *,
    network: AugmentedNetwork,
    plan: FreezingPlan,
    optimizer: optax.GradientTransformation,
    preprocessing: Preprocessing,
    settings: StepSettings,
    axis_name: str,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Take one step of gradient descent on this device's share of a batch.

    Args:
      state: the same on every device.
      batch: `image` uint8 [b, H, W, 3], `label` int32 [b], `id` and `view` [b] for the random draws; of a pool `index`
        and `box` instead of `image`; where `settings.start` is set, `inputs` [b, ...], or `index` [b] into the pool's.
      learning_rate: float32 scalar, of pretrained layers.
      pool: `images` and `sizes` of a data set that lives on the device, or `inputs` of all rows.
      network, plan, optimizer, preprocessing, settings: what the step is made of.
      axis_name: axis of the devices.

    Returns:
      The state after the step, equal on every device, and scalars of the global batch before it: `loss` (with label
      smoothing and class weights), `top1`, `gradient_norm` of what trains; and `norms`, float32 [layer groups], of each
      group's `gradient` and, before the step, of its trainable `parameter`s. A batch whose classes all have weight 0
      has loss 0 and changes nothing but the number of the step.
    """
    trainable, frozen = plan.partition(state.params)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    class_weights = jnp.asarray(settings.class_weights or 1.0, jnp.float32)

    def weights_of(labels):
        return class_weights[labels] if settings.class_weights else jnp.ones(labels.shape, jnp.float32)

    # The weights are summed over the global batch first, so that the mean over devices is the mean over examples.
    total_weight = jax.lax.pmean(jnp.sum(weights_of(batch["label"])), axis_name)
    # Of a batch that holds only classes of weight 0; the loss would be 0/0.
    empty = total_weight == 0 if 0 in settings.class_weights else None
    if empty is not None:
        total_weight = jnp.where(empty, 1.0, total_weight)

    def inputs(micro):
        if settings.start is not None:
            kept = kept_inputs(micro, pool, settings.start, preprocessing)
            return kept, jax.nn.one_hot(micro["label"], network.head.num_classes)
        if settings.pool is None:
            images = micro["image"]
        else:
            crop, method = settings.pool
            images = cut(
                pool["images"],
                pool["sizes"],
                micro["index"],
                micro["box"],
                crop=crop,
                method=method,
                image_size=preprocessing.image_size,
            )
        draws = {"ids": micro["id"], "views": micro["view"], "view_seed": settings.view_seed}
        images = augment(
            images,
            **draws,
            flip=settings.flip,
            shift=settings.shift,
            jitter=settings.jitter,
            erase=settings.erase,
            rotate=settings.rotate,
            blur=settings.blur,
        )
        targets = jax.nn.one_hot(micro["label"], network.head.num_classes)
        images, targets = mix(
            images, targets, **draws, mixup=settings.mixup, cutmix=settings.cutmix, axis_name=axis_name
        )
        return preprocessing.normalise(images), targets

    def loss_of(trainable, batch_stats, micro, key):
        x, targets = inputs(micro)
        variables = {"params": merge(trainable, frozen), "batch_stats": batch_stats}
        logits, changed = network.apply(
            variables, x, settings.start or 0, train_from=plan.depth, rngs={"dropout": key}, mutable=["batch_stats"]
        )
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
            (more, (batch_stats, right)), delta = gradient_of(
                trainable, batch_stats, micro, jax.random.fold_in(key, index)
            )
            return (batch_stats, jax.tree.map(jnp.add, gradient, delta), loss + more, correct + right, index + 1), None

        micros = jax.tree.map(lambda x: x.reshape(settings.accumulate, -1, *x.shape[1:]), dict(batch))
        zeros = jax.tree.map(jnp.zeros_like, trainable)
        # The sums start as device-varying values, which they are from the first addition on.
        start = jax.lax.pcast((zeros, jnp.float32(0), jnp.float32(0)), axis_name, to="varying")
        (batch_stats, gradient, loss, correct, _), _ = jax.lax.scan(
            accumulate, (state.batch_stats, *start, jnp.int32(0)), micros
        )

    gradient, loss, correct = jax.lax.pmean((gradient, loss, correct), axis_name)
    updates, opt_state = optimizer.update(gradient, state.opt_state, trainable)
    updates = jax.tree.map(lambda update: -learning_rate * update, updates)
    after = (optax.apply_updates(trainable, updates), batch_stats, opt_state)
    norms = {"gradient": plan.norms(gradient), "parameter": plan.norms(trainable)}
    norm = jnp.linalg.norm(norms["gradient"])
    counts = [] if empty is None else [~empty]
    if settings.skip_not_finite:
        counts += [jnp.isfinite(loss), jnp.isfinite(norm)]
    if counts:
        counts = functools.reduce(jnp.logical_and, counts)
        after = jax.tree.map(
            lambda new, old: jnp.where(counts, new, old), after, (trainable, state.batch_stats, state.opt_state)
        )
    params, batch_stats, opt_state = after
    state = state.replace(
        step=state.step + 1, params=merge(params, frozen), batch_stats=batch_stats, opt_state=opt_state
    )
    return state, {"loss": loss, "top1": correct, "gradient_norm": norm, "norms": norms}


def kept_inputs(
    batch: Mapping[str, Any], pool: Mapping[str, Any] | None, start: int, preprocessing: Preprocessing
) -> Any:
    """Return what layer group `start` reads: float32 activations, or normalised pictures where `start` is 0.

    Args:
      batch: `inputs`, a tree of arrays [b, ...], or `index` int32 [b] of its rows in the pool.
      pool: `inputs`, a tree of arrays [rows, ...].
      start, preprocessing: as the activations were made.
    """
    kept = batch["inputs"] if "inputs" in batch else jax.tree.map(lambda rows: rows[batch["index"]], pool["inputs"])
    return jax.tree.map(lambda x: x.astype(jnp.float32), kept) if start else preprocessing.normalise(kept)


def predict_step(
    variables: Any, images: jax.Array, *, network: AugmentedNetwork, preprocessing: Preprocessing
) -> jax.Array:
    """Return the class probabilities, float32 [N, num_classes], of uint8 pictures [N, H, W, 3]."""
    return jax.nn.softmax(network.apply(variables, preprocessing.normalise(images)))


def eval_step(
    variables: Any,
    batch: Mapping[str, jax.Array],
    *,
    network: AugmentedNetwork,
    preprocessing: Preprocessing,
    axis_name: str,
) -> dict[str, jax.Array]:
    """Return sums over the global batch of what the metrics are made of (`metrics.evaluation_sums`).

    Args:
      variables: of the network.
      batch: `image` uint8 [b, H, W, 3], `label` int32 [b], `mask` float32 [b], 0 where the batch is padded. With
        `place` int32 [b], the position of each image in its split, the step also returns `place` [B] and
        `probabilities` float32 [B, C] of the global batch.
    """
    logits = network.apply(variables, preprocessing.normalise(batch["image"]))
    losses = cross_entropy(logits, jax.nn.one_hot(batch["label"], logits.shape[-1]))
    sums = jax.lax.psum(evaluation_sums(logits, losses, batch["label"], batch["mask"]), axis_name)
    if "place" not in batch:
        return sums
    each = {"place": batch["place"], "probabilities": jax.nn.softmax(logits)}
    return {**sums, **jax.lax.all_gather(each, axis_name, tiled=True)}


# Cells of a study differ in seed, rate and schedule only: one compiled step serves them all.
@functools.lru_cache(maxsize=64)
def pmapped_train_step(
    network: AugmentedNetwork,
    plan: FreezingPlan,
    optimizer: OptimizerSettings,
    preprocessing: Preprocessing,
    settings: StepSettings,
) -> Callable:
    """Return `train_step` over all local devices: (state, batch [devices, b, ...], rate, pool) -> (state, scalars).

    State, pool and scalars are not stacked: they go in and come out once, and the state given is used up.
    """
    step = functools.partial(
        train_step,
        network=network,
        plan=plan,
        optimizer=create_optimizer(optimizer, plan),
        preprocessing=preprocessing,
        settings=settings,
        axis_name=AXIS,
    )
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None, None), out_axes=None, donate_argnums=(0,))


@functools.lru_cache(maxsize=64)
def pmapped_eval_step(network: AugmentedNetwork, preprocessing: Preprocessing) -> Callable:
    """Return `eval_step` over all local devices: (variables, batch [devices, b, ...]) -> what it returns, once."""
    step = functools.partial(eval_step, network=network, preprocessing=preprocessing, axis_name=AXIS)
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None)


def _each(function: Callable, count: int, axes: tuple[int | None, ...]) -> Callable:
    """Map a function over a leading axis of `count`; one alone is not mapped, which convolutions would pay for."""
    if count > 1:
        return jax.vmap(function, in_axes=axes)

    def one(*arguments):
        first = [
            jax.tree.map(lambda x: x[0], argument) if axis == 0 else argument
            for argument, axis in zip(arguments, axes, strict=True)
        ]
        return jax.tree.map(lambda x: x[None], function(*first))

    return one


@functools.lru_cache(maxsize=128)
def pmapped_pack_step(
    network: AugmentedNetwork,
    plan: FreezingPlan,
    optimizer: OptimizerSettings,
    preprocessing: Preprocessing,
    settings: StepSettings,
    cells: int,
    steps: int,
) -> Callable:
    """Return up to `steps` steps of `cells` independent trainings on kept activations, over all local devices.

    Args of it: states stacked [cells, ...]; batches [devices, steps, cells, b, ...]; learning rates [steps, cells];
    the pool; how many of the steps to take. It returns the states and, for each cell, the sum of the losses [cells].
    One step is not put into a loop: XLA's convolutions on a CPU are 50 times slower within one.
    """
    step = functools.partial(
        train_step,
        network=network,
        plan=plan,
        optimizer=create_optimizer(optimizer, plan),
        preprocessing=preprocessing,
        settings=settings,
        axis_name=AXIS,
    )
    step = _each(step, cells, (0, 0, 0, None))

    def pack(states, batches, rates, pool, count):
        def body(index, carry):
            states, losses = carry
            states, scalars = step(states, jax.tree.map(lambda x: x[index], batches), rates[index], pool)
            return states, losses + scalars["loss"]

        start = states, jnp.zeros(cells, jnp.float32)
        return body(0, start) if steps == 1 else jax.lax.fori_loop(0, count, body, start)

    return jax.pmap(pack, axis_name=AXIS, in_axes=(None, 0, None, None, None), out_axes=None, donate_argnums=(0,))


@functools.lru_cache(maxsize=128)
def pmapped_pack_eval_step(
    network: AugmentedNetwork, preprocessing: Preprocessing, start: int, cells: int, each: bool = False
) -> Callable:
    """Return the evaluation of `cells` networks, each on its own batch of kept activations, over all local devices.

    Args of it: variables stacked [cells, ...]; batches [devices, cells, b, ...] with `label` and `mask`; the pool. It
    returns the sums of `eval_step`, stacked [cells, ...], and with `each` also `probabilities` [cells, B, C] in the
    order of the global batch.
    """

    def evaluate(variables, batch, pool):
        logits = network.apply(variables, kept_inputs(batch, pool, start, preprocessing), start)
        losses = cross_entropy(logits, jax.nn.one_hot(batch["label"], logits.shape[-1]))
        sums = jax.lax.psum(evaluation_sums(logits, losses, batch["label"], batch["mask"]), AXIS)
        if each:
            sums["probabilities"] = jax.lax.all_gather(jax.nn.softmax(logits), AXIS, tiled=True)
        return sums

    return jax.pmap(_each(evaluate, cells, (0, 0, None)), axis_name=AXIS, in_axes=(None, 0, None), out_axes=None)


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
        raise UserError(
            f"A batch of {size} images does not divide by {devices} devices: set config.batch_size to a "
            f"multiple of {devices}."
        )
    return {name: array.reshape(devices, -1, *array.shape[1:]) for name, array in batch.items()}
