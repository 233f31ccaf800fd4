"""The steps of training, evaluation and prediction over all local devices; equal settings share one compilation."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import jax
import jax.numpy as jnp

from flax_augtl.models.augmented import AugmentedNetwork
from flax_augtl.pretrained import Preprocessing
from flax_augtl.training.freezing import FreezingPlan
from flax_augtl.training.optimizer import OptimizerSettings, create_optimizer
from flax_augtl.training.pmapped import PmappedStep
from flax_augtl.training.step import AXIS, StepSettings, eval_step, predict_step, train_step
from flax_augtl.training.step_inputs import Images, StepInputs

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result", covariant=True)


class _Cached(Protocol[_Arguments, _Result]):
    """A function whose results `functools.lru_cache` keeps."""

    def __call__(self, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result: ...

    def cache_clear(self) -> None: ...


def _cached(maxsize: int) -> Callable[[Callable[_Arguments, _Result]], _Cached[_Arguments, _Result]]:
    """Return `functools.lru_cache`, which keeps the argument types; type checkers take Flax modules for unhashable."""
    return cast(Any, functools.lru_cache(maxsize))


# Trials of a study differ in seed, rate and schedule only, so they share one compiled step.
@_cached(maxsize=64)
def pmapped_train_step(
    network: AugmentedNetwork,
    plan: FreezingPlan,
    optimizer: OptimizerSettings,
    preprocessing: Preprocessing,
    settings: StepSettings,
) -> PmappedStep:
    """Return `train_step` over all local devices: (state, batch, rate, pool) -> (state, scalars); it donates the state."""
    step = functools.partial(
        train_step,
        network=network,
        plan=plan,
        optimizer=create_optimizer(optimizer, plan),
        preprocessing=preprocessing,
        settings=settings,
        axis_name=AXIS,
    )
    return PmappedStep(step, 4, donates=True)


@_cached(maxsize=128)
def pmapped_eval_step(
    network: AugmentedNetwork,
    preprocessing: Preprocessing,
    inputs: StepInputs = Images(),  # noqa: B008  # It is frozen.
    trials: int | None = None,
) -> PmappedStep:
    """Return `eval_step` over all local devices: (variables, batch, pool) -> sums.

    With a number of trials, each is evaluated on its own batch: variables, sums and `probabilities` are stacked
    [trials, ...], and the arrays of a batch are [devices, trials, b, ...].
    """
    step = functools.partial(eval_step, network=network, preprocessing=preprocessing, axis_name=AXIS, inputs=inputs)
    return PmappedStep(step if trials is None else _each(step, trials, (0, 0, None)), 3)


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
    *,
    trials: int,
    steps: int,
) -> PmappedStep:
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

    return PmappedStep(pack, 5, donates=True)


@_cached(maxsize=8)
def compiled_predict_step(network: AugmentedNetwork, preprocessing: Preprocessing) -> Callable:
    """Return `predict_step` compiled for one device."""
    return jax.jit(functools.partial(predict_step, network=network, preprocessing=preprocessing))
