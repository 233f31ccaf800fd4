"""The layers of the networks and of the head, as nodes of ONNX; images are [N, C, H, W] there."""

from collections.abc import Mapping, Sequence

import numpy as np

from flax_augtl.export.onnx_graph import Graph, Value
from flax_augtl.models.pooling import pooling_matrix

Leaves = Mapping[str, np.ndarray]
"""The parameters, or the running statistics, of one layer."""


def conv(graph: Graph, x: Value, name: str, leaves: Leaves, stride: int = 1, pad: int | None = None) -> Value:
    """Add a convolution, by default padded by half its kernel on every side."""
    kernel = np.asarray(leaves["kernel"]).transpose(3, 2, 0, 1)
    size = kernel.shape[-1]
    padding = size // 2 if pad is None else pad
    sides = [(side + 2 * padding - size) // stride + 1 for side in x.shape[1:]]
    inputs = [x.name, graph.weight(f"{name}.weight", kernel)]
    if "bias" in leaves:
        inputs.append(graph.weight(f"{name}.bias", leaves["bias"]))
    return graph.add(
        "Conv",
        inputs,
        (kernel.shape[0], *sides),
        kernel_shape=[size, size],
        strides=[stride, stride],
        pads=[padding] * 4,
    )


def batch_norm(graph: Graph, x: Value, name: str, params: Leaves, statistics: Leaves, epsilon: float) -> Value:
    """Add a batch norm that uses the running statistics."""
    inputs = [
        graph.weight(f"{name}.{leaf}", of[leaf])
        for of, leaf in ((params, "scale"), (params, "bias"), (statistics, "mean"), (statistics, "var"))
    ]
    return graph.add("BatchNormalization", [x.name, *inputs], x.shape, epsilon=epsilon)


def layer_norm(graph: Graph, x: Value, name: str, params: Leaves, epsilon: float) -> Value:
    """Add a layer norm over the features."""
    inputs = [graph.weight(f"{name}.{leaf}", params[leaf]) for leaf in ("scale", "bias")]
    return graph.add("LayerNormalization", [x.name, *inputs], x.shape, axis=-1, epsilon=epsilon)


def l2_norm(graph: Graph, x: Value, name: str, params: Leaves, epsilon: float) -> Value:
    """Add scale * x / max(‖x‖, epsilon) over the features."""
    square = graph.add("Mul", [x.name, x.name], x.shape)
    total = graph.add(
        "ReduceSum", [square.name, graph.constant("last_axis", np.array([-1], np.int64))], (1,), keepdims=1
    )
    floor = graph.constant(f"{name}.least", np.array(epsilon**2, np.float32))
    length = graph.add("Sqrt", [graph.add("Max", [total.name, floor], (1,)).name], (1,))
    unit = graph.add("Div", [x.name, length.name], x.shape)
    return graph.add("Mul", [unit.name, graph.weight(f"{name}.scale", params["scale"])], x.shape)


def signed_root(graph: Graph, x: Value, epsilon: float) -> Value:
    """Add x / sqrt(|x| + epsilon), the signed square root."""
    shifted = graph.add(
        "Add",
        [graph.add("Abs", [x.name], x.shape).name, graph.constant("root_epsilon", np.array(epsilon, np.float32))],
        x.shape,
    )
    return graph.add("Div", [x.name, graph.add("Sqrt", [shifted.name], x.shape).name], x.shape)


def dense(graph: Graph, x: Value, name: str, leaves: Leaves, output: str | None = None) -> Value:
    """Add a dense layer."""
    kernel = np.asarray(leaves["kernel"])
    inputs = [x.name, graph.weight(f"{name}.kernel", kernel), graph.weight(f"{name}.bias", leaves["bias"])]
    return graph.add("Gemm", inputs, kernel.shape[1:], output)


def relu(graph: Graph, x: Value) -> Value:
    """Add a ReLU."""
    return graph.add("Relu", [x.name], x.shape)


def total(graph: Graph, x: Value, y: Value) -> Value:
    """Add the sum of two values of one shape."""
    return graph.add("Add", [x.name, y.name], x.shape)


def concatenated(graph: Graph, values: Sequence[Value]) -> Value:
    """Join features; one value stays as it is."""
    if len(values) == 1:
        return values[0]
    return graph.add("Concat", [value.name for value in values], (sum(value.shape[0] for value in values),), axis=1)


def max_pool(graph: Graph, x: Value, size: int, stride: int, pad: int = 0) -> Value:
    """Add max-pooling."""
    sides = [(side + 2 * pad - size) // stride + 1 for side in x.shape[1:]]
    return graph.add(
        "MaxPool",
        [x.name],
        (x.shape[0], *sides),
        kernel_shape=[size, size],
        strides=[stride, stride],
        pads=[pad] * 4,
    )


def flat(graph: Graph, x: Value) -> Value:
    """Flatten [N, C, H, W] channel first."""
    return graph.add("Flatten", [x.name], (int(np.prod(x.shape)),), axis=1)


def mean_over_space(graph: Graph, x: Value) -> Value:
    """Average over rows and columns; features stay as they are."""
    if len(x.shape) == 1:
        return x
    return flat(graph, graph.add("GlobalAveragePool", [x.name], (x.shape[0], 1, 1)))


def adaptive_average_pool(graph: Graph, x: Value, size: int) -> Value:
    """Average to size × size over PyTorch's windows, which may overlap: one matrix product for each axis."""
    channels, rows, columns = x.shape
    if (rows, columns) == (size, size):
        return x
    left = graph.constant("pool_rows", pooling_matrix(rows, size))
    right = graph.constant("pool_columns", pooling_matrix(columns, size).T)
    x = graph.add("MatMul", [left, x.name], (channels, size, columns))
    return graph.add("MatMul", [x.name, right], (channels, size, size))


def padded_shortcut(graph: Graph, x: Value, features: int, stride: int, before: int) -> Value:
    """Take every `stride`-th pixel, and put channels of zeros before and behind the old ones."""
    channels, rows, columns = x.shape
    if stride != 1:
        rows, columns = (-(-side // stride) for side in (rows, columns))
        ends = [
            graph.constant(name, np.array(numbers, np.int64))
            for name, numbers in (
                ("first_pixel", [0, 0]),
                ("last_pixel", [np.iinfo(np.int64).max] * 2),
                ("rows_and_columns", [2, 3]),
                (f"every_{stride}", [stride, stride]),
            )
        ]
        x = graph.add("Slice", [x.name, *ends], (channels, rows, columns))
    if features != channels:
        behind = features - channels - before
        pads = graph.constant(f"channels_{before}_{behind}", np.array([0, before, 0, 0, 0, behind, 0, 0], np.int64))
        x = graph.add("Pad", [x.name, pads], (features, rows, columns))
    return x
