"""Which operators make each row of their output from the same row of their inputs alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from .graph import Graph, attributes
from .shapes import BINARY, SAME_RANK, Shapes

_END = 1 << 31  # no axis is as long
_NORMS = ("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")


class RowWise:
    """Tells the inputs of a node that hold rows, where its output's rows need no others.

    A row is what lies along the last axis of a value [batch, sequence, width] or [batch x sequence, width]. The
    leading axes of two values that are added are taken to be equal: shapes often can't be told, so whoever uses
    this compares results.

    Args:
        graph: only read.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.shapes = Shapes(graph)
        self._fixed = set(graph.initializers)
        for node in graph.in_order():
            if all(value in self._fixed for value in graph.reads(node)):
                self._fixed.update(node.output)

    def inputs(self, node: onnx.NodeProto) -> list[int] | None:
        """Return the indices of the inputs that hold rows; None where a row depends on more than one."""
        find = _RULES.get(node.op_type)
        if find is not None:
            return find(self, node)
        if node.op_type in SAME_RANK and self._rest_fixed(node):
            return [0]
        return None

    def binary(self, node: onnx.NodeProto) -> list[int] | None:
        """Every input holds rows, or is the same for all rows."""
        rows = [i for i, value in enumerate(node.input) if value not in self._fixed]
        same = all(self._same_for_all(value) for value in node.input if value in self._fixed)
        ranks = {self.shapes.rank(node.input[i]) for i in rows}
        return rows if rows and same and len(ranks) == 1 and None not in ranks else None

    def norm(self, node: onnx.NodeProto) -> list[int] | None:
        """A normalisation over the last axis."""
        axis, rank = attributes(node).get("axis", -1), self.shapes.rank(node.input[0])
        return [0] if self._rest_fixed(node) and axis in (-1, (rank or 0) - 1) else None

    def mean(self, node: onnx.NodeProto) -> list[int] | None:
        """A mean over the last axis, which stays."""
        held = attributes(node)
        axes = self._graph.constant(node.input[1]) if len(node.input) > 1 else np.array(held.get("axes", []))
        last = axes is not None and axes.tolist() == [-1]
        return [0] if last and held.get("keepdims", 1) else None

    def product(self, node: onnx.NodeProto) -> list[int] | None:
        """A product with a stored matrix, from the right."""
        matrix = self.shapes.rank(node.input[1]) == 2 and node.input[1] in self._fixed
        return [0] if matrix else None

    def gemm(self, node: onnx.NodeProto) -> list[int] | None:
        """A product with a stored matrix, with the same bias for all rows."""
        plain = not attributes(node).get("transA", 0) and self._rest_fixed(node)
        bias = node.input[2] if len(node.input) > 2 else ""
        return [0] if plain and (not bias or self._same_for_all(bias)) else None

    def integer(self, node: onnx.NodeProto) -> list[int] | None:
        """A product of a quantised activation, whose scale comes with it, and a stored matrix."""
        maker = self._graph.producer(node.input[0])
        dynamic = maker is not None and maker.op_type == "DynamicQuantizeLinear"
        return [0] if dynamic and node.input[1] in self._fixed else None

    def nbits(self, node: onnx.NodeProto) -> list[int] | None:
        """A product with a stored matrix of few bits."""
        return [0] if self._rest_fixed(node) else None

    def reshape(self, node: onnx.NodeProto) -> list[int] | None:
        """[batch, sequence, width] to [batch x sequence, width], or back, or to itself."""
        ranks = {self.shapes.rank(node.input[0]), self.shapes.rank(node.output[0])}
        widths = {self.shapes.width(node.input[0]), self.shapes.width(node.output[0])}
        return [0] if ranks in ({2, 3}, {3}) and len(widths) == 1 and None not in widths else None

    def slice(self, node: onnx.NodeProto) -> list[int] | None:
        """A slice that leaves everything, as "the last 0 positions" is exported."""
        if len(node.input) < 3:  # opset 9: attributes
            return None
        starts, ends, *rest = [self._graph.constant(value) for value in node.input[1:] if value]
        steps = rest[1:]
        if starts is None or ends is None or any(step is None or (step != 1).any() for step in steps):
            return None
        return [0] if not starts.any() and (ends >= _END).all() else None

    def _rest_fixed(self, node: onnx.NodeProto) -> bool:
        return all(value in self._fixed for value in node.input[1:] if value)

    def _same_for_all(self, value: str) -> bool:
        dims = self.shapes.dims(value)
        return dims is not None and all(dim == 1 for dim in dims[:-1])


_RULES: dict[str, Callable[[RowWise, onnx.NodeProto], list[int] | None]] = {
    **dict.fromkeys(BINARY, RowWise.binary),
    **dict.fromkeys(_NORMS, RowWise.norm),
    "ReduceMean": RowWise.mean,
    "MatMul": RowWise.product,
    "Gemm": RowWise.gemm,
    "MatMulIntegerToFloat": RowWise.integer,
    "MatMulNBits": RowWise.nbits,
    "Reshape": RowWise.reshape,
    "Slice": RowWise.slice,
}
