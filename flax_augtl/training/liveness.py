"""The peak memory of a traced function's intermediate values, by a model of what XLA keeps.

XLA fuses chains of elementwise operations, so that values within a chain never exist in memory; it may even compute a
chain twice. The results of convolutions, matrix products, reductions and the like do exist, and so do their inputs. A
value lives from the operation that makes it to the last one that needs it, directly or through a chain.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

# Operations that XLA does not fuse into chains, by the start of their names: their inputs must exist.
_WHOLE = (
    "conv_general",
    "dot_general",
    "reduce_window",
    "select_and_",
    "sort",
    "scatter",
    "gather",
    "scan",
    "while",
    "cond",
    "all_gather",
    "cumsum",
    "cumprod",
    "dynamic_update_slice",
    "top_k",
    "custom_call",
    "ragged",
)
_REDUCTIONS = ("reduce_", "argmax", "argmin")
# Operations whose result shares the memory of their input; XLA can sum over devices in place.
_SAME = (
    "reshape",
    "squeeze",
    "expand_dims",
    "stop_gradient",
    "copy",
    "pvary",
    "pcast",
    "psum",
    "pmean",
    "optimization_barrier",
)
_LOOPS = ("scan", "while", "cond")


@dataclasses.dataclass
class _Value:
    size: int
    made: int
    exists: bool
    needs: frozenset[int] = frozenset()  # The values from which a chain computes this one.


def peak(jaxpr: Any, *, platform: str = "tpu") -> int:
    """Return the peak memory in bytes of a jaxpr's intermediate values, without its inputs.

    Args:
      jaxpr: the jaxpr of a function for one device.
      platform: cpu, gpu or tpu. XLA's CPU compiler computes bfloat16 in float32, keeps the centred values of a batch
        norm, and makes pairs of values and positions for the gradient of max-pooling.
    """
    trace = _Trace(platform)
    inputs = [trace.add(0, True) for _ in (*jaxpr.constvars, *jaxpr.invars)]
    trace.read(jaxpr, dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True)))
    return trace.peak()


def on_each_device(jaxpr: Any) -> Any:
    """Return the part of a pmapped function's jaxpr that each device runs, with the shapes on one device."""
    for equation in jaxpr.eqns:
        inner = _all_called(equation)
        found = (
            inner[0] if equation.primitive.name == "shard_map" else next(filter(None, map(on_each_device, inner)), None)
        )
        if found is not None:
            return found
    return None


def size_of(tree: Any) -> int:
    """Return the bytes of a tree of arrays, or of shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class _Trace:
    """The operations of a jaxpr in their order, with called functions inlined."""

    def __init__(self, platform: str):
        self._platform = platform
        self._values: list[_Value] = []
        self._uses: list[tuple[int, frozenset[int]]] = []
        self._inside: dict[int, int] = {}  # Bytes inside of a loop, by the time of the loop.
        self._time = 0

    def add(self, size: int, exists: bool, needs: frozenset[int] = frozenset()) -> int:
        self._values.append(_Value(size, self._time, exists, needs))
        return len(self._values) - 1

    def read(self, jaxpr: Any, names: dict[Any, int]) -> None:
        for equation in jaxpr.eqns:
            self._time += 1
            name = equation.primitive.name
            operands = [names[v] for v in equation.invars if not isinstance(v, core.Literal)]
            called = self._chosen(equation) if name == "cond" else None if name in _LOOPS else _called(equation)
            if called is not None:
                given = [names[v] if not isinstance(v, core.Literal) else self.add(0, True) for v in equation.invars]
                inner = dict(zip(called.invars, given[len(given) - len(called.invars) :], strict=True))
                inner |= {v: self.add(0, True) for v in called.constvars}
                self.read(called, inner)
                for out, result in zip(equation.outvars, called.outvars, strict=True):
                    names[out] = self.add(0, True) if isinstance(result, core.Literal) else inner[result]
                continue
            if name.startswith(_SAME) and len(operands) == len(equation.outvars):
                names |= zip(equation.outvars, operands, strict=True)
                continue
            whole = name.startswith(_WHOLE)
            if whole:
                for operand in operands:
                    self._make(operand)
                self._inside[self._time] = max(
                    (peak(each, platform=self._platform) for each in _all_called(equation)), default=0
                )
                if self._platform == "cpu" and name.startswith("select_and_scatter"):
                    self._inside[self._time] = 6 * self._size(equation.outvars[0].aval)
            needs = frozenset().union(*(self._roots(operand) for operand in operands))
            # Batch norm reads its centred activations several times.
            centred = self._platform == "cpu" and name == "sub" and equation.outvars[0].aval.ndim == 4
            exists = whole or name.startswith(_REDUCTIONS) or centred
            if exists:
                self._uses.append((self._time, needs))
            for out in equation.outvars:
                names[out] = self.add(self._size(out.aval), exists, needs)

    def _chosen(self, equation: Any) -> Any:
        """Return the branch of `jax.lax.platform_dependent` for the platform; None for another condition."""
        for names, branch in zip(
            equation.params.get("branches_platforms") or (), equation.params["branches"], strict=False
        ):
            if names is None or self._platform in names:
                return branch.jaxpr
        return None

    def _size(self, aval: Any) -> int:
        if not hasattr(aval, "shape"):
            return 0
        item = 4 if self._platform == "cpu" and aval.dtype == jnp.bfloat16 else aval.dtype.itemsize
        return math.prod(aval.shape) * item

    def _roots(self, value: int) -> frozenset[int]:
        return frozenset({value}) if self._values[value].exists else self._values[value].needs

    def _make(self, index: int) -> None:
        """Mark a value of a chain as one that exists, from the time when it is made."""
        value = self._values[index]
        if not value.exists:
            value.exists = True
            self._uses.append((value.made, value.needs))

    def peak(self) -> int:
        last: dict[int, int] = {}
        for time, needs in self._uses:
            for index in needs:
                last[index] = max(last.get(index, 0), time)
        change = [0] * (self._time + 2)
        for index, value in enumerate(self._values):
            if value.exists and value.size:
                change[value.made] += value.size
                change[last.get(index, value.made) + 1] -= value.size
        live = most = 0
        for time, delta in enumerate(change):
            live += delta
            most = max(most, live + self._inside.get(time, 0))
        return most


def _all_called(equation: Any) -> list[Any]:
    found = []
    for value in equation.params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            each = getattr(each, "jaxpr", each)
            if isinstance(each, core.Jaxpr):
                found.append(each)
    return found


def _called(equation: Any) -> Any:
    """Return the jaxpr that an operation calls with its operands; None if it calls none."""
    found = _all_called(equation)
    return found[0] if len(found) == 1 or equation.primitive.name.startswith("custom_") and found else None
