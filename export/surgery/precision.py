"""Which nodes of a graph stay in float32 where the rest computes in float16."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto

from zoedge.names import LABELS, in_graph

from .graph import Array, Graph
from .types import FixedFloats

CONVERTED = (TensorProto.FLOAT, TensorProto.BFLOAT16)  # what becomes float16
SMALLEST = 6.1e-5  # below, float16 loses digits, and below 6e-8 everything
LARGEST = 65504.0

# sums of many or of large terms, and functions whose results leave the range of float16 for ordinary arguments
_SENSITIVE = frozenset((
    "ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd", "ReduceLogSum",
    "ReduceLogSumExp", "CumSum", "LpNormalization", "MeanVarianceNormalization", "Exp", "Log", "LogSoftmax",
    "Softplus", "Sin", "Cos", "Tan", "Range",
))  # fmt: skip
_REDUCTIONS = frozenset(op for op in _SENSITIVE if op.startswith("Reduce"))
_ARITHMETIC = frozenset((
    "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Neg", "Abs", "Max", "Min", "Clip", "Cast", "Sum",
))  # fmt: skip
VIEWS = frozenset((
    "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Identity", "Slice", "Expand", "Concat", "Split", "Flatten", "Tile",
    "Where", "Gather",
))  # fmt: skip
PASSING = _ARITHMETIC | VIEWS
_PRODUCTS = (
    "MatMul",
    "Einsum",
)  # of float32 values alone, as of positions and the frequencies of rotary embeddings


class Precision:
    """Tells the nodes that compute in float32.

    The loss does, from the logits on. So do sums and functions that overflow, and the arithmetic beside them whose
    operands are float32 anyway: the middle of a norm, the tables of rotary embeddings, a mask made from integers.

    Args:
        graph: finished, only read.
        types: value -> element type.
        tensors: inputs that are stored tensors, which become float16.
        halves: other inputs that do.
    """

    def __init__(
        self, graph: Graph, types: Mapping[str, int], tensors: Collection[str], halves: Collection[str]
    ) -> None:
        self._graph, self._types, self._tensors = graph, types, frozenset(tensors)
        self._order = list(graph.in_order())
        self._constants = constants_of(graph, types)
        self._fixed = FixedFloats(graph)
        self._full: set[int] = set()
        self._given = {name for name in graph.inputs if name not in self._tensors and name not in halves}
        loss = _loss_part(graph, types)
        for node in self._order:
            if id(node) in loss or self._starts(node):
                self._full.add(id(node))
        while self._grow():
            pass

    def is_full(self, node: onnx.NodeProto) -> bool:
        """Whether a node computes in float32."""
        return id(node) in self._full

    def input_type(self, node: onnx.NodeProto, place: int) -> int:
        """Return the type that a node reads a converted value in."""
        full = self.is_full(node) or place in self._fixed.inputs(node)
        return int(TensorProto.FLOAT if full else TensorProto.FLOAT16)

    def type_of(self, value: str) -> int:
        """Return the type that a value has after the conversion."""
        node = self._graph.producer(value)
        if node is None:
            return int(TensorProto.FLOAT if value in self._given else TensorProto.FLOAT16)
        full = self.is_full(node) or list(node.output).index(value) in self._fixed.outputs(node)
        return int(TensorProto.FLOAT if full else TensorProto.FLOAT16)

    def converts(self, value: str) -> bool:
        """Whether a value is of a type that becomes float16."""
        return bool(value) and self._types.get(value) in CONVERTED

    def _starts(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Constant" or not any(map(self.converts, node.output)):
            return False
        if not self._read(
            node
        ):  # made of integers and constants, or a source's own step up from float16 numbers
            return not (node.op_type == "Cast" and node.input[0] in self._tensors)
        if node.op_type in _SENSITIVE or (node.op_type == "Cast" and node.output[0] in self._graph.outputs):
            return True
        return node.op_type in _ARITHMETIC and any(map(self._is_tiny, node.input))

    def _read(self, node: onnx.NodeProto) -> list[str]:
        """Return what a node reads that becomes float16 unless it is said to stay, constants left aside."""
        return [value for value in node.input if self.converts(value) and value not in self._constants]

    def _is_tiny(self, value: str) -> bool:
        constant = self._constants.get(value)
        return constant is not None and 0.0 < float(np.abs(constant).max(initial=0.0)) < SMALLEST

    def _grow(self) -> bool:
        """Let more nodes compute in float32; whether any was found."""
        before = len(self._full)
        raised = self._raised()
        for node in self._order:
            if not self.is_full(node) and self._joins(node, raised):
                self._full.add(id(node))
        for node in self._order:
            if self.is_full(node) and node.op_type in _REDUCTIONS:
                self._add_squares(node)
        return len(self._full) > before

    def _raised(self) -> set[str]:
        """Return the values that are float32 somewhere: of full nodes, or read by one."""
        read = (value for node in self._order if self.is_full(node) for value in node.input)
        return {value for value in read if self.converts(value) and value not in self._tensors}

    def _joins(self, node: onnx.NodeProto, raised: Collection[str]) -> bool:
        if node.op_type not in PASSING and node.op_type not in _PRODUCTS:
            return False
        read = self._read(node)
        if not any(map(self.converts, node.output)) or self._tensors.intersection(read):
            return False
        full = [value for value in read if self.type_of(value) == TensorProto.FLOAT]
        if node.op_type in _PRODUCTS:
            return len(full) == len(read)
        return bool(full) and all(value in full or value in raised for value in read)

    def _add_squares(self, node: onnx.NodeProto) -> None:
        maker = self._graph.producer(node.input[0])
        while maker is not None and not self.is_full(maker) and _squares(maker):
            self._full.add(id(maker))
            maker = self._graph.producer(maker.input[0])


def constants_of(graph: Graph, types: Mapping[str, int]) -> dict[str, Array]:
    """Return the constants that become float16, by name."""
    made = (output for node in graph.nodes if node.op_type == "Constant" for output in node.output)
    names = [name for name in (*graph.initializers, *made) if types.get(name) in CONVERTED]
    found = {name: graph.constant(name) for name in names}
    return {name: np.asarray(array) for name, array in found.items() if array is not None}


def _squares(node: onnx.NodeProto) -> bool:
    return node.op_type in ("Pow", "Abs") or (node.op_type == "Mul" and node.input[0] == node.input[1])


def _loss_part(graph: Graph, types: Mapping[str, int]) -> set[int]:
    """Return the nodes behind the logits, which the labels meet first; none in a graph without labels."""
    labels = in_graph(LABELS)
    if labels not in graph.inputs:
        return set()
    behind = _descendants(graph, [labels])
    made = {output for node in graph.nodes if id(node) in behind for output in node.output}
    meets = [
        value
        for node in graph.nodes
        if id(node) in behind
        for value in node.input
        if types.get(value) in CONVERTED and value not in made and value != labels
        if graph.producer(value) is not None or value in graph.inputs
    ]
    return behind | _descendants(graph, meets)


def _descendants(graph: Graph, values: Collection[str]) -> set[int]:
    found: set[int] = set()
    waiting = list(values)
    while waiting:
        for node in graph.consumers(waiting.pop()):
            if id(node) not in found:
                found.add(id(node))
                waiting += node.output
    return found
