"""Floating-point operations of the convolutions and matrix products of a traced function, on each device."""

import math
from typing import Any

import jax
from jax.extend import core


def count(function: Any, *arguments: Any, platform: str = "cuda") -> float:
    """Return the operations of a function, a multiplication and an addition counted as two.

    Compilers count differently where a convolution is a library's; this is the arithmetic that must be done.

    Args:
      function: pmapped, jitted or plain.
      *arguments: of it, or their shapes.
      platform: which branch of `jax.lax.platform_dependent` counts: cpu, cuda, tpu.
    """
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr, platform)


def _of(jaxpr: Any, platform: str) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "dot_general":
            total += _product(equation)
        elif name == "cond":
            total += _branch(equation, platform)
        else:
            times = equation.params.get("length", 1) if name == "scan" else 1
            total += times * sum(_of(each, platform) for each in _called(equation))
    return total


def _convolution(equation: Any) -> float:
    dimensions, kernel = equation.params["dimension_numbers"], equation.invars[1].aval.shape
    _, channels, *spatial = dimensions.rhs_spec
    products = math.prod(kernel[axis] for axis in (channels, *spatial))
    # Where the input is dilated by a stride, most of what the kernel meets is zero.
    return 2 * math.prod(equation.outvars[0].aval.shape) * products / math.prod(equation.params["lhs_dilation"] or (1,))


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def _branch(equation: Any, platform: str) -> float:
    branches = equation.params["branches"]
    for names, branch in zip(equation.params.get("branches_platforms") or (), branches, strict=False):
        if names is None or platform in names:
            return _of(branch.jaxpr, platform)
    return max(_of(branch.jaxpr, platform) for branch in branches)


def _called(equation: Any) -> list[Any]:
    if equation.primitive.name.startswith("custom_"):
        inner = equation.params.get("call_jaxpr") or equation.params.get("fun_jaxpr")
        return [getattr(inner, "jaxpr", inner)]
    found = []
    for value in equation.params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            each = getattr(each, "jaxpr", each)
            if isinstance(each, core.Jaxpr):
                found.append(each)
    return found
