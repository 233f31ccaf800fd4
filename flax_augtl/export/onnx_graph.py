"""An ONNX graph in the making: nodes, weights, and the shape of every value."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# The oldest with LayerNormalization; read by onnxruntime from version 1.12 on.
OPSET = 17
IR_VERSION = 8


class Value(NamedTuple):
    """A tensor of the graph.

    Attributes:
      name: in the graph.
      shape: of one example: (channels, rows, columns), or (features,).
    """

    name: str
    shape: tuple[int, ...]


class Graph:
    """Collects the nodes and the weights of a model.

    Weights of 16 bits are cast to float32 in the graph: runtimes for CPUs have no convolutions of 16 bits.
    """

    def __init__(self):
        from onnx import helper, numpy_helper  # Optional, and slow to import.

        self._helper, self._numpy_helper = helper, numpy_helper
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}
        self._count: dict[str, int] = {}

    def add(
        self, op: str, inputs: Sequence[str], shape: Sequence[int], name: str | None = None, **attributes: Any
    ) -> Value:
        """Add a node with one output and return that.

        Args:
          op: name of the operator.
          inputs: names of values and weights.
          shape: of one example of the output.
          name: of the output; by default made from `op`.
          **attributes: of the operator.
        """
        self._count[op] = self._count.get(op, 0) + 1
        name = name or f"{op}_{self._count[op]}"
        self._nodes.append(
            self._helper.make_node(op, list(inputs), [name], name=f"{op}_{self._count[op]}", **attributes)
        )
        return Value(name, tuple(shape))

    def constant(self, name: str, array: np.ndarray | Sequence[int]) -> str:
        """Add a weight as it is, and return its name."""
        array = np.ascontiguousarray(array)
        known = self._initializers.get(name)
        if known is not None and known != self._numpy_helper.from_array(array, name):
            raise AssertionError(f"two weights of the name {name}")
        self._initializers[name] = self._numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str, array: np.ndarray) -> str:
        """Add a weight of 16 or 32 bits, and return the name of its float32 values."""
        array = np.asarray(array)
        if array.dtype == np.float32:
            return self.constant(name, array)
        self.constant(name, array)
        return self.add(
            "Cast",
            [name],
            array.shape,
            f"{name}.float32",
            to=self._helper.np_dtype_to_tensor_dtype(np.dtype(np.float32)),
        ).name

    def cast(self, x: Value) -> Value:
        """Return a value as float32."""
        return self.add("Cast", [x.name], x.shape, to=self._helper.np_dtype_to_tensor_dtype(np.dtype(np.float32)))

    def model(self, image: Value, image_type: type, outputs: Sequence[Value], about: dict[str, str]) -> bytes:
        """Return the finished model, checked for form.

        Args:
          image: the input, its batch dimension free.
          image_type: numpy type of its elements.
          outputs: float32, in this order.
          about: texts for the metadata of the file.
        """
        import onnx
        from onnx import TensorProto, helper

        kind = helper.np_dtype_to_tensor_dtype(np.dtype(image_type))
        model = helper.make_model(
            helper.make_graph(
                self._nodes,
                "network",
                [helper.make_tensor_value_info(image.name, kind, ["N", *image.shape])],
                [
                    helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["N", *value.shape])
                    for value in outputs
                ],
                list(self._initializers.values()),
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="flax_augtl",
        )
        helper.set_model_props(model, about)
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()
