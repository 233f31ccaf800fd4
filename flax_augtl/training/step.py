"""One step of training, evaluation and prediction, and the same steps compiled for all local devices."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, cast

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

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result", covariant=True)


class _Cached(Protocol[_Arguments, _Result]):
    """A function whose results `functools.lru_cache` keeps."""

    def __call__(self, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result: ...

    def cache_clear(self) -> None: ...


def _cached(maxsize: int) -> Callable[[Callable[_Arguments, _Result]], _Cached[_Arguments, _Result]]:
    """Return `functools.lru_cache`, which keeps the argument types; type checkers take Flax modules for unhashable."""
    return cast(Any, functools.lru_cache(maxsize))


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """Settings of the training step.

    Attributes:
      label_smoothing: share of the probability that is spread evenly over all classes.
      class_weights: weight of each class in the loss; () for equal weights.
      accumulate: number of micro-batches per device and step. Trainable batch norm normalises by the statistics of one
        micro-batch over all devices.
      flip: see `data.images.augment.augment`, also for the next five.
      shift: see `flip`.
      jitter: see `flip`.
      erase: see `flip`.
      rotate: see `flip`.
      blur: see `flip`.
      mixup: see `data.images.mixup.mix`.
      cutmix: see `data.images.mixup.mix`.
      view_seed: seed of the random augmentations.
      skip_not_finite: keep the old state if the loss or the gradient is not finite.
      pool: crop and interpolation of a dataset on the device (`data.loading.device_dataset`); None if batches bring the
        images.
      start: index of the layer group that reads the inputs. The inputs are then kept activations, or finished views for
        0. None if the inputs are images that the step augments.
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


def logits_of(network: AugmentedNetwork, variables: Any, inputs: Any, start: int = 0) -> jax.Array:
    """Return the logits [N, C] of a network in inference mode; `start` is the layer group that reads the inputs."""
    return cast(jax.Array, network.apply(variables, inputs, start))  # Nothing is mutable, so there is one result.


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
) -> tuple[TrainState, dict[str, Any]]:
    """Take one step of gradient descent on this device's share of a batch.

    Args:
      state: the state before the step, the same on every device.
      batch: `image` uint8 [b, H, W, 3], `label` int32 [b], and `id` and `view` [b] for the random augmentations. With a
        pool: `index` and `box` instead of `image`. With `settings.start`: `inputs` [b, ...], or `index` [b] into the
        pool's `inputs`.
      learning_rate: learning rate of pretrained layers, a float32 scalar.
      pool: `images` and `sizes` of a dataset on the device, or `inputs` of all rows.
      network: the network.
      plan: what is frozen.
      optimizer: from `create_optimizer`.
      preprocessing: normalises the images.
      settings: settings of the step.
      axis_name: axis of the devices.

    Returns:
      The state after the step, equal on every device, and values of the global batch before the step: the scalars
      `loss` (with label smoothing and class weights), `top1` and `gradient_norm` (of what trains); and `norms`, a dict
      of float32 [layer groups] with the norms of each group's `gradient` and trainable `parameter`s. A batch whose
      classes all have weight 0 has loss 0 and changes only the number of the step.
    """
    trainable, frozen = plan.partition(state.params)
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    class_weights = jnp.asarray(settings.class_weights or 1.0, jnp.float32)

    def weights_of(labels):
        return class_weights[labels] if settings.class_weights else jnp.ones(labels.shape, jnp.float32)

    # Sum the weights over the global batch first, so that the mean over devices is the mean over examples.
    total_weight = jax.lax.pmean(jnp.sum(weights_of(batch["label"])), axis_name)
    # In a batch of classes of weight 0 only, the loss would be 0/0.
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
            assert pool is not None, "settings.pool is set, so the images are in a pool"
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
        # A network without batch norm changes no statistics; its collection stays empty.
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
        # The first addition makes the sums device-varying, so they start as such.
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
    """Return what layer group `start` reads: float32 activations, or normalised images if `start` is 0.

    Args:
      batch: `inputs`, a tree of arrays [b, ...], or `index` int32 [b] of its rows in the pool.
      pool: `inputs`, a tree of arrays [rows, ...].
      start: index of the layer group.
      preprocessing: normalises the images.
    """
    if "inputs" in batch:
        kept = batch["inputs"]
    else:
        assert pool is not None, "a batch without inputs has indices into the pool"
        kept = jax.tree.map(lambda rows: rows[batch["index"]], pool["inputs"])
    return jax.tree.map(lambda x: x.astype(jnp.float32), kept) if start else preprocessing.normalise(kept)


def predict_step(
    variables: Any, images: jax.Array, *, network: AugmentedNetwork, preprocessing: Preprocessing
) -> jax.Array:
    """Return the class probabilities, float32 [N, num_classes], of uint8 images [N, H, W, 3]."""
    return jax.nn.softmax(logits_of(network, variables, preprocessing.normalise(images)))


def eval_step(
    variables: Any,
    batch: Mapping[str, jax.Array],
    *,
    network: AugmentedNetwork,
    preprocessing: Preprocessing,
    axis_name: str,
) -> dict[str, jax.Array]:
    """Return the sums over the global batch from which metrics are computed (`metrics.evaluation_sums`).

    Args:
      variables: the network's variables.
      batch: `image` uint8 [b, H, W, 3], `label` int32 [b], and `mask` float32 [b], which is 0 for padding. With
        `place` int32 [b], the position of each image in its split, the step also returns `place` [B] and
        `probabilities` float32 [B, C] of the global batch.
      network: the network.
      preprocessing: normalises the images.
      axis_name: axis of the devices.
    """
    logits = logits_of(network, variables, preprocessing.normalise(batch["image"]))
    losses = cross_entropy(logits, jax.nn.one_hot(batch["label"], logits.shape[-1]))
    sums = jax.lax.psum(evaluation_sums(logits, losses, batch["label"], batch["mask"]), axis_name)
    if "place" not in batch:
        return sums
    each = {"place": batch["place"], "probabilities": jax.nn.softmax(logits)}
    return {**sums, **jax.lax.all_gather(each, axis_name, tiled=True)}


# Trials of a study differ in seed, rate and schedule only, so they share one compiled step.
@_cached(maxsize=64)
def pmapped_train_step(
    network: AugmentedNetwork,
    plan: FreezingPlan,
    optimizer: OptimizerSettings,
    preprocessing: Preprocessing,
    settings: StepSettings,
) -> Callable:
    """Return `train_step` over all local devices: (state, batch [devices, b, ...], rate, pool) -> (state, scalars).

    State, pool and scalars are not stacked over devices. The function donates the state that it gets.
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


@_cached(maxsize=64)
def pmapped_eval_step(network: AugmentedNetwork, preprocessing: Preprocessing) -> Callable:
    """Return `eval_step` over all local devices: (variables, batch [devices, b, ...]) -> sums, not stacked."""
    step = functools.partial(eval_step, network=network, preprocessing=preprocessing, axis_name=AXIS)
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None)


def _each(function: Callable, count: int, axes: tuple[int | None, ...]) -> Callable:
    """Map a function over a leading axis of `count`; an axis of 1 is not mapped, as vmap slows convolutions down."""
    if count > 1:
        return jax.vmap(function, in_axes=axes)

    def one(*arguments):
        first = [
            jax.tree.map(lambda x: x[0], argument) if axis == 0 else argument
            for argument, axis in zip(arguments, axes, strict=True)
        ]
        return jax.tree.map(lambda x: x[None], function(*first))

    return one


@_cached(maxsize=128)
def pmapped_pack_step(
    network: AugmentedNetwork,
    plan: FreezingPlan,
    optimizer: OptimizerSettings,
    preprocessing: Preprocessing,
    settings: StepSettings,
    trials: int,
    steps: int,
) -> Callable:
    """Return a function that takes up to `steps` steps of several trials on kept activations, over all local devices.

    Its arguments: states stacked [trials, ...]; batches [devices, steps, trials, b, ...]; learning rates
    [steps, trials]; the pool; the number of steps to take. It returns the states and each trial's sum of losses
    [trials]. A single step is not put into a loop, in which XLA's convolutions on a CPU are 50 times slower.
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
    step = _each(step, trials, (0, 0, 0, None))

    def pack(states, batches, rates, pool, count):
        def body(index, carry):
            states, losses = carry
            states, scalars = step(states, jax.tree.map(lambda x: x[index], batches), rates[index], pool)
            return states, losses + scalars["loss"]

        start = states, jnp.zeros(trials, jnp.float32)
        return body(0, start) if steps == 1 else jax.lax.fori_loop(0, count, body, start)

    return jax.pmap(pack, axis_name=AXIS, in_axes=(None, 0, None, None, None), out_axes=None, donate_argnums=(0,))


@_cached(maxsize=128)
def pmapped_pack_eval_step(
    network: AugmentedNetwork, preprocessing: Preprocessing, start: int, trials: int, each: bool = False
) -> Callable:
    """Return a function that evaluates several trials, each on its own batch of kept activations, over all devices.

    Its arguments: variables stacked [trials, ...]; batches [devices, trials, b, ...] with `label` and `mask`; the pool.
    It returns the sums of `eval_step`, stacked [trials, ...]. With `each` it also returns `probabilities`
    [trials, B, C] in the order of the global batch.
    """

    def evaluate(variables, batch, pool):
        logits = logits_of(network, variables, kept_inputs(batch, pool, start, preprocessing), start)
        losses = cross_entropy(logits, jax.nn.one_hot(batch["label"], logits.shape[-1]))
        sums = jax.lax.psum(evaluation_sums(logits, losses, batch["label"], batch["mask"]), AXIS)
        if each:
            sums["probabilities"] = jax.lax.all_gather(jax.nn.softmax(logits), AXIS, tiled=True)
        return sums

    return jax.pmap(_each(evaluate, trials, (0, 0, None)), axis_name=AXIS, in_axes=(None, 0, None), out_axes=None)


@_cached(maxsize=8)
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
      UserError: b does not divide by the number of devices.
    """
    size = len(batch["label"])
    if size % devices:
        raise UserError(
            f"A batch of {size} images does not divide by {devices} devices: set config.batch_size to a "
            f"multiple of {devices}."
        )
    return {name: array.reshape(devices, -1, *array.shape[1:]) for name, array in batch.items()}
