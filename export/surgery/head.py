"""The layer that makes the logits: the last linear layer, seen through what follows it element by element."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from .graph import Graph
from .linears import Linear, find_linears

_UNARY = frozenset({"Identity", "Cast", "Tanh", "Neg", "Clip", "QuantizeLinear", "DequantizeLinear"})
_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})


@dataclass(frozen=True, eq=False)
class Chain:
    """A linear layer and the element-wise nodes between it and the logits.

    Attributes:
        linear: the layer.
        after: from the layer to the logits, each node with the index of its input that isn't constant.
    """

    linear: Linear
    after: tuple[tuple[onnx.NodeProto, int], ...]

    def constants(self, graph: Graph) -> list[tuple[onnx.NodeProto, int]]:
        """Return the inputs that hold one value per output, as (node, index): biases and scales."""
        width = self.linear.width_out
        places = [(node, 1 - index) for node, index in self.after if node.op_type in _BINARY]
        if self.linear.node.op_type == "Gemm" and len(self.linear.node.input) > 2:
            places.insert(0, (self.linear.node, 2))
        return [(n, i) for n, i in places if (graph.shape(n.input[i]) or (1,))[-1:] == (width,)]

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the matrix and of what is added to or multiplied with its output."""
        names = {node.input[1 - index] for node, index in self.after if node.op_type in _BINARY}
        return frozenset(names | {self.linear.weight} | set(self.linear.node.input[2:]))


def find_head(graph: Graph, logits: str) -> Chain | None:
    """Walk back from the logits through biases, scales and soft caps to a linear layer; None without one."""
    linears = {linear.y: linear for linear in find_linears(graph)}
    after: list[tuple[onnx.NodeProto, int]] = []
    value = logits
    while value not in linears:
        node = graph.producer(value)
        index = None if node is None else _data_input(graph, node)
        if node is None or index is None:
            return None
        after.insert(0, (node, index))
        value = node.input[index]
    return Chain(linears[value], tuple(after))


def _data_input(graph: Graph, node: onnx.NodeProto) -> int | None:
    """Return which input of an element-wise node is the activation; None for any other node."""
    if node.op_type in _UNARY:
        return 0
    if node.op_type not in _BINARY:
        return None
    shapes = [graph.shape(value) for value in node.input]
    constant = [shape is not None and all(dim == 1 for dim in shape[:-1]) for shape in shapes]
    return constant.index(False) if sum(constant) == 1 else None
