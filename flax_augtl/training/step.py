"""One step of training, of evaluation and of prediction, on one device."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from flax_augtl.data.images.augment import augment
from flax_augtl.data.images.mixup import mix
from flax_augtl.models.augmented import CLASSIFICATION, HEAD, AugmentedNetwork
from flax_augtl.pretrained import Preprocessing
from flax_augtl.training.freezing import FreezingPlan, merge
from flax_augtl.training.methods.places import FeatureLoss, Normalisation
from flax_augtl.training.metrics import evaluation_sums
from flax_augtl.training.state import TrainState
from flax_augtl.training.step_inputs import Images, KeptFeatures, StepInputs, start_of

# The axis of the devices over which a step is mapped.
AXIS = "batch"


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
      inputs: the kind of input; images are augmented, kept features are not.
      losses: further terms of the loss, which methods plug in.
      normalisation: of batch norm in training; None for the usual one.
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
    inputs: StepInputs = Images()  # It is frozen.
    losses: tuple[FeatureLoss, ...] = ()
    normalisation: Normalisation | None = None


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
      batch: `label` int32 [b], what `settings.inputs` reads, and `id` and `view` [b] for the random augmentations.
      learning_rate: learning rate of pretrained layers, a float32 scalar.
      pool: what `settings.inputs` reads besides; None if it reads the batch alone.
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
    shared_key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    key = jax.random.fold_in(shared_key, jax.lax.axis_index(axis_name))
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
        targets = jax.nn.one_hot(micro["label"], network.head.num_classes)
        if isinstance(settings.inputs, KeptFeatures):
            return settings.inputs.read(micro, pool, preprocessing), targets
        images = settings.inputs.images(micro, pool, preprocessing)
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
        images, targets = mix(
            images, targets, **draws, mixup=settings.mixup, cutmix=settings.cutmix, axis_name=axis_name
        )
        return preprocessing.normalise(images), targets

    def run(variables, x, key, index) -> tuple[jax.Array, Any, Any]:
        """Return logits, penultimate features where a term of the loss reads them, and changed statistics."""
        how = {"train_from": plan.depth, "rngs": {"dropout": key}, "mutable": ["batch_stats"]}
        context = contextlib.nullcontext()
        if settings.normalisation is not None:
            context = settings.normalisation.during(jax.random.fold_in(shared_key, index))
        with context:
            if not settings.losses:
                logits, changed = cast(Any, network.apply(variables, x, start_of(settings.inputs), **how))
                return logits, None, changed
            groups = network.source.groups
            top = len(groups) - (groups[-1] in CLASSIFICATION)
            features, below = cast(Any, network.apply(variables, x, start_of(settings.inputs), top, **how))
            logits, above = cast(Any, network.apply(variables, features, top, **how))
        # Each collection has the new statistics of the part that ran, and the old ones of the other.
        statistics = dict(below.get("batch_stats", {}))
        if HEAD in statistics:
            statistics[HEAD] = above["batch_stats"][HEAD]
        # A head that widens the topmost layer reads the inputs of that layer, too.
        features = features["top"] if isinstance(features, Mapping) else features
        return logits, features, {"batch_stats": statistics}

    def loss_of(trainable, batch_stats, micro, key, index=0):
        x, targets = inputs(micro)
        variables = {"params": merge(trainable, frozen), "batch_stats": batch_stats}
        logits, features, changed = run(variables, x, key, index)
        losses = cross_entropy(logits, targets, settings.label_smoothing) * weights_of(micro["label"])
        correct = jnp.mean(jnp.argmax(logits, -1) == micro["label"]) / settings.accumulate
        loss = jnp.sum(losses) / total_weight
        for term in settings.losses:
            loss += term.loss(features, micro["label"], axis_name) / settings.accumulate
        # A network without batch norm changes no statistics; its collection stays empty.
        return loss, (changed.get("batch_stats", batch_stats), correct)

    gradient_of = jax.value_and_grad(loss_of, has_aux=True)
    if settings.accumulate == 1:
        (loss, (batch_stats, correct)), gradient = gradient_of(trainable, state.batch_stats, batch, key)
    else:

        def accumulate(carry, micro):
            batch_stats, gradient, loss, correct, index = carry
            (more, (batch_stats, right)), delta = gradient_of(
                trainable, batch_stats, micro, jax.random.fold_in(key, index), index
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


def predict_step(
    variables: Any, images: jax.Array, *, network: AugmentedNetwork, preprocessing: Preprocessing
) -> jax.Array:
    """Return the class probabilities, float32 [N, num_classes], of uint8 images [N, H, W, 3]."""
    return jax.nn.softmax(logits_of(network, variables, preprocessing.normalise(images)))


def eval_step(
    variables: Any,
    batch: Mapping[str, jax.Array],
    pool: Mapping[str, jax.Array] | None = None,
    *,
    network: AugmentedNetwork,
    preprocessing: Preprocessing,
    axis_name: str,
    inputs: StepInputs = Images(),  # noqa: B008  # It is frozen.
) -> dict[str, jax.Array]:
    """Return the sums over the global batch from which metrics are computed (`metrics.evaluation_sums`).

    Args:
      variables: the network's variables.
      batch: what `inputs` reads, `label` int32 [b], and `mask` float32 [b], which is 0 for padding. With `place`
        int32 [b], the position of each example in its split, the step also returns `place` [B] and `probabilities`
        float32 [B, C] of the global batch.
      pool: what `inputs` reads besides; None if it reads the batch alone.
      network: the network.
      preprocessing: normalises the images.
      axis_name: axis of the devices.
      inputs: the kind of input.
    """
    logits = logits_of(network, variables, inputs.read(batch, pool, preprocessing), start_of(inputs))
    losses = cross_entropy(logits, jax.nn.one_hot(batch["label"], logits.shape[-1]))
    sums = jax.lax.psum(evaluation_sums(logits, losses, batch["label"], batch["mask"]), axis_name)
    if "place" not in batch:
        return sums
    each = {"place": batch["place"], "probabilities": jax.nn.softmax(logits)}
    return {**sums, **jax.lax.all_gather(each, axis_name, tiled=True)}
