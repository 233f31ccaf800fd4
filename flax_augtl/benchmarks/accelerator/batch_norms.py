"""Other ways to compute a batch norm, measured beside the network's own, whose place they take while a step is traced.

The network's own one computes the variance in a second pass over its inputs, and normalises in float32.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flax_augtl.errors import UserError

SHIFTED, BFLOAT16, BOTH, FOLDED = "one pass", "bfloat16", "one pass, bfloat16", "folded"
VARIANTS = (SHIFTED, BFLOAT16, BOTH, FOLDED)


@contextlib.contextmanager
def replaced(variant: str | None) -> Iterator[None]:
    """Let the batch norms of networks that are traced within compute in another way.

    Args:
      variant: `one pass`: mean and variance in one pass over the inputs, from which the running mean is subtracted
        first, so that their squares do not cancel. `bfloat16`: sums in float32, all else in the dtype of the
        computation. `folded`: those in inference mode only add their bias, for variables from `folded`. None: their own
        way.
    """
    if variant is not None and variant not in VARIANTS:
        raise UserError(f"{variant!r} is no batch norm; choices: {', '.join(VARIANTS)}.")
    with nn.intercept_methods(functools.partial(_intercept, variant)) if variant else contextlib.nullcontext():
        yield


def _intercept(variant: str, own: Callable, arguments: tuple, settings: dict, context: Any) -> Any:
    module = context.module
    if not isinstance(module, nn.BatchNorm) or context.method_name != "__call__" or module.is_initializing():
        return own(*arguments, **settings)
    (x,) = arguments
    if variant == FOLDED:
        if not module.use_running_average:
            return own(*arguments, **settings)
        return (x.astype(jnp.float32) + module.get_variable("params", "bias")).astype(module.dtype)
    mean, var = _statistics(module, x, SHIFTED in variant)
    return _normalised(module, x, mean, var, BFLOAT16 in variant)


def _statistics(module: nn.BatchNorm, x: jax.Array, one_pass: bool) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance, float32 [C]; in training those of the batch over all devices."""
    running = {name: module.get_variable("batch_stats", name) for name in ("mean", "var")}
    if module.use_running_average:
        return running["mean"], running["var"]
    axes = tuple(range(x.ndim - 1))

    def averaged(*values):
        means = jnp.stack([value.mean(axes) for value in values])
        return means if module.axis_name is None else jax.lax.pmean(means, module.axis_name)

    x = x.astype(jnp.float32)
    if one_pass:
        shifted = x - running["mean"]
        first, second = averaged(shifted, jnp.square(shifted))
        mean, var = running["mean"] + first, jnp.maximum(second - jnp.square(first), 0)
    else:
        (mean,) = averaged(x)
        (var,) = averaged(jnp.square(x - mean))
    for name, value in (("mean", mean), ("var", var)):
        module.put_variable("batch_stats", name, module.momentum * running[name] + (1 - module.momentum) * value)
    return mean, var


def _normalised(module: nn.BatchNorm, x: jax.Array, mean: jax.Array, var: jax.Array, narrow: bool) -> jax.Array:
    scale, bias = (module.get_variable("params", name) for name in ("scale", "bias"))
    factor = jax.lax.rsqrt(var + module.epsilon) * scale
    if not narrow:
        return ((x.astype(jnp.float32) - mean) * factor + bias).astype(module.dtype)
    dtype = module.dtype
    return x.astype(dtype) * factor.astype(dtype) + (bias - mean * factor).astype(dtype)


def folded(variables: Mapping[str, Any], groups: Sequence[str], epsilon: float) -> dict[str, Any]:
    """Return variables in which batch norms of frozen layer groups are folded into the convolutions before them.

    With `replaced("folded")` the network then computes what it computed before.

    Args:
      variables: of an augmented network.
      groups: its frozen layer groups.
      epsilon: of the batch norms.
    """
    params, stats = variables["params"]["source"], variables["batch_stats"].get("source", {})
    source = {
        group: _folded(tree, stats.get(group, {}), epsilon) if group in groups else tree
        for group, tree in params.items()
    }
    return {**variables, "params": {**variables["params"], "source": source}}


def _folded(params: Mapping[str, Any], stats: Mapping[str, Any], epsilon: float) -> dict[str, Any]:
    found = dict(params)
    for name, tree in params.items():
        norm = name.replace("conv", "bn")
        if not {"kernel", "scale"} & {*tree}:
            found[name] = _folded(tree, stats.get(name, {}), epsilon)
        elif "conv" in name and norm in params:
            factor = params[norm]["scale"] / jnp.sqrt(stats[norm]["var"] + epsilon)
            shift = params[norm]["bias"] + factor * (tree.get("bias", 0.0) - stats[norm]["mean"])
            found[name] = {**tree, "kernel": tree["kernel"] * factor}
            if "bias" in tree:
                found[name]["bias"] = jnp.zeros_like(tree["bias"])
            found[norm] = {**params[norm], "bias": shift}
    return found
