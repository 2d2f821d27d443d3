"""How many axes a value has and how wide its last one is, also behind operators that onnx has no schema for."""

from __future__ import annotations

import onnx

from .graph import Graph, attributes, dims_of

# the output has the rank of the first input; its width too, but where the table below says otherwise
SAME_RANK = frozenset(
    ("Identity", "Cast", "Relu", "LeakyRelu", "Elu", "Selu", "Gelu", "Erf", "Tanh", "Sigmoid", "HardSigmoid",
     "HardSwish", "Mish", "Softplus", "Softsign", "Sqrt", "Reciprocal", "Neg", "Abs", "Exp", "Log", "Sin", "Cos",
     "Clip", "QuickGelu", "FastGelu", "BiasGelu", "LayerNormalization", "SimplifiedLayerNormalization",
     "RMSNormalization", "Slice", "DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear")
)  # fmt: skip
BINARY = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"))
_PRODUCTS = frozenset(("MatMul", "Gemm", "MatMulIntegerToFloat", "MatMulNBits"))


class Shapes:
    """Ranks and widths of a graph's values, as far as they can be told.

    Args:
        graph: only read.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        model = onnx.ModelProto(ir_version=9, opset_import=graph.imports)
        model.graph.CopyFrom(graph.proto)
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(graph.in_order())
        model.graph.initializer.extend(graph.initializers.values())
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        self._dims = {v.name: dims_of(v) for v in values if v.type.tensor_type.HasField("shape")}
        self._dims |= {name: tuple(tensor.dims) for name, tensor in graph.initializers.items()}
        self._ranks: dict[str, int | None] = {}

    def dims(self, value: str) -> tuple[int | str, ...] | None:
        """Return a value's dimensions as inference knows them; None for none at all."""
        return self._dims.get(value)

    def rank(self, value: str) -> int | None:
        """Return the number of axes; None where it can't be told."""
        if value not in self._ranks:
            self._ranks[value] = None  # a graph has no cycles, but a broken one might
            self._ranks[value] = self._find_rank(value)
        return self._ranks[value]

    def width(self, value: str) -> int | None:
        """Return the length of the last axis; None where it can't be told."""
        dims = self.dims(value)
        if dims and isinstance(dims[-1], int):
            return dims[-1]
        node = self._graph.producer(value)
        if node is None:
            return None
        if node.op_type in SAME_RANK and node.op_type != "Slice":
            return self.width(node.input[0])
        if node.op_type in BINARY:
            widths = [self.width(each) for each in node.input]
            return max(w for w in widths if w is not None) if None not in widths else None
        return self._made_width(node)

    def _find_rank(self, value: str) -> int | None:
        dims = self.dims(value)
        if dims is not None:
            return len(dims)
        node = self._graph.producer(value)
        if node is None:
            return None
        if node.op_type in SAME_RANK | _PRODUCTS or _keeps_axes(node):
            return self.rank(node.input[0])
        if node.op_type == "Reshape":
            length = self.dims(node.input[1])
            return length[0] if length and isinstance(length[0], int) else None
        if node.op_type in BINARY:
            ranks = [self.rank(each) for each in node.input]
            return max(r for r in ranks if r is not None) if None not in ranks else None
        return None

    def _made_width(self, node: onnx.NodeProto) -> int | None:
        if node.op_type == "Reshape":
            return self._last_number(node.input[1])
        if _keeps_axes(node):
            return 1
        if node.op_type == "MatMulNBits":
            return int(attributes(node)["N"])
        if node.op_type in ("MatMul", "MatMulIntegerToFloat"):
            return self.width(node.input[1])
        return None

    def _last_number(self, shape: str) -> int | None:
        """Return the last entry of a shape, where it is a constant above zero."""
        node = self._graph.producer(shape)
        while node is not None and node.op_type == "Concat":
            shape = node.input[-1]
            node = self._graph.producer(shape)
        known = self._graph.constant(shape)
        return int(known[-1]) if known is not None and known.ndim and known[-1] > 0 else None


def _keeps_axes(node: onnx.NodeProto) -> bool:
    return node.op_type == "ReduceMean" and bool(attributes(node).get("keepdims", 1))
