"""The familiarity of images as nodes of an ONNX graph; `forward.familiarity_of` is the same in JAX."""

import numpy as np

from flax_augtl.export.forward import DistanceParts
from flax_augtl.export.onnx_graph import Graph, Value


def add(graph: Graph, features: Value, parts: DistanceParts) -> Value:
    """Add the familiarity [N] of features [N, D]."""

    def constant(name: str, array: np.ndarray) -> str:
        return graph.constant(f"familiarity.{name}", np.asarray(array, np.float32))

    def squares(x: Value, name: str, means: np.ndarray) -> Value:
        """Add the squared distances from rows to means."""
        own = graph.add("ReduceSumSquare", [x.name], (1,), axes=[1], keepdims=1)
        product = graph.add("MatMul", [x.name, constant(f"{name}.twice", -2 * means.T)], (len(means),))
        total = graph.add("Add", [own.name, product.name], product.shape)
        total = graph.add("Add", [total.name, constant(f"{name}.squares", (means**2).sum(axis=1))], total.shape)
        return graph.add("Relu", [total.name], total.shape)

    length = graph.add("ReduceL2", [features.name], (1,), axes=[1], keepdims=1)
    length = graph.add("Max", [length.name, constant("shortest", np.array(1e-12))], (1,))
    x = graph.add("Div", [features.name, length.name], features.shape)
    x = graph.add("Sub", [x.name, constant("centre", parts.centre)], x.shape)
    inside = graph.add("MatMul", [x.name, constant("basis", parts.basis)], (parts.basis.shape[1],))
    scaled = graph.add("Mul", [inside.name, constant("inverse", parts.inverse)], inside.shape)
    everywhere = squares(x, "means", parts.means)
    near = squares(inside, "near", parts.near)
    far = squares(scaled, "scaled", parts.near * parts.inverse)
    rest = graph.add("Relu", [graph.add("Sub", [everywhere.name, near.name], near.shape).name], near.shape)
    rest = graph.add("Mul", [rest.name, constant("inverse_rest", parts.inverse_rest)], rest.shape)
    far = graph.add("Add", [far.name, rest.name], rest.shape)
    far = graph.add("Sqrt", [graph.add("ReduceMin", [far.name], (1,), axes=[1], keepdims=1).name], (1,))
    farther = graph.add("Less", [far.name, constant("validation", parts.validation)], parts.validation.shape)
    farther = graph.cast(farther)
    axes = graph.constant("familiarity.axes", np.array([1], np.int64))
    count = graph.add("ReduceSum", [farther.name, axes], (), keepdims=0)
    more = graph.add("Add", [count.name, constant("one", np.array(1.0))], ())
    total = constant("total", np.array(len(parts.validation) + 1.0))
    return graph.add("Div", [more.name, total], (), "familiarity")
