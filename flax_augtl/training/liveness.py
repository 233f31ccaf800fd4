"""How much memory the intermediate values of a traced function take at once, by a model of what XLA keeps.

XLA joins chains of elementwise operations into one, so that what is between them never exists as a whole; such a chain
may even be computed twice. What exists are the results of convolutions, matrix products, reductions and the like, and
what these read. A value lives from where it is made to the last operation that needs it, directly or through a chain.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

# Operations that do not take part in a chain, by the start of their names: what they read must exist.
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
# Their result is what they read, under another name; a sum over devices can be made in place.
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
    needs: frozenset[int] = frozenset()  # What must exist for a value of a chain to be computed.


def peak(jaxpr: Any, *, platform: str = "tpu") -> int:
    """Return the largest number of bytes that intermediate values of a jaxpr take at once, its inputs not counted.

    Args:
      jaxpr: of a function for one device.
      platform: cpu, gpu, tpu. XLA's CPU compiler computes bfloat16 in float32, keeps what a batch norm has centred, and
        has no gradient of max-pooling: it makes pairs of values and places for it.
    """
    trace = _Trace(platform)
    inputs = [trace.add(0, True) for _ in (*jaxpr.constvars, *jaxpr.invars)]
    trace.read(jaxpr, dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True)))
    return trace.peak()


def on_each_device(jaxpr: Any) -> Any:
    """Return the part of a pmapped function's jaxpr that each device runs, in the shapes that it sees."""
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
    """Operations in their order, with functions that are called written out in their place."""

    def __init__(self, platform: str):
        self._platform = platform
        self._values: list[_Value] = []
        self._uses: list[tuple[int, frozenset[int]]] = []
        self._inside: dict[int, int] = {}  # Bytes that a loop needs on top, by its place.
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
            # Centred activations, which batch norm reads several times.
            centred = self._platform == "cpu" and name == "sub" and equation.outvars[0].aval.ndim == 4
            exists = whole or name.startswith(_REDUCTIONS) or centred
            if exists:
                self._uses.append((self._time, needs))
            for out in equation.outvars:
                names[out] = self.add(self._size(out.aval), exists, needs)

    def _chosen(self, equation: Any) -> Any:
        """Return the branch of `jax.lax.platform_dependent` that the platform takes; None where the choice is another."""
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
        """Let a value of a chain exist, from where it stands in the order."""
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
    """Return the one jaxpr that an operation calls with its operands, if it does."""
    found = _all_called(equation)
    return found[0] if len(found) == 1 or equation.primitive.name.startswith("custom_") and found else None
