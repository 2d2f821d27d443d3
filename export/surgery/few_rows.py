"""Products of trained matrices from the left, y^T = W x^T: as fast as packed ones where there are few rows.

onnxruntime packs a constant matrix once, but one that may change in every run, and for few rows that takes as long
as the product itself. From the left a matrix is read as it lies, and the activations are what is packed.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto

from .graph import Graph, attributes
from .linears import Linear, find_linears
from .shapes import Shapes


def multiply_from_left(graph: Graph, changing: Collection[str]) -> tuple[str, ...]:
    """Rewrite the linear layers whose float32 matrix [out, in] is trained; return those matrices.

    Args:
        graph: changed in place.
        changing: names of the trained tensors.
    """
    shapes = Shapes(graph)
    leading: dict[str, str] = {}
    found = [linear for linear in find_linears(graph) if _fits(graph, shapes, linear, changing)]
    for linear in found:
        _rewrite(graph, linear, shapes.rank(linear.x) == 2, leading)
    return tuple(dict.fromkeys(linear.weight for linear in found))


def _fits(graph: Graph, shapes: Shapes, linear: Linear, changing: Collection[str]) -> bool:
    node = linear.node
    plain = node.op_type == "MatMul" or (node.op_type == "Gemm" and attributes(node).get("beta", 1.0) == 1.0)
    stored = graph.initializers[linear.weight].data_type == linear.dtype == TensorProto.FLOAT
    trained = linear.weight in changing and not linear.transposed and not linear.rounded
    return plain and stored and trained and (shapes.rank(linear.x) or 0) >= 2


def _rewrite(graph: Graph, linear: Linear, flat: bool, leading: dict[str, str]) -> None:
    """``leading`` remembers the leading axes of each activation, which several layers read."""
    graph.divert(linear.y, f"{linear.y}/right")
    bias = [value for value in linear.node.input[2:] if value] if linear.node.op_type == "Gemm" else []
    rows = linear.x if flat else graph.add("Reshape", linear.x, _sizes(graph, -1, linear.width_in))
    product = graph.add("MatMul", linear.weight, graph.add("Transpose", rows, perm=[1, 0]))  # [out, rows]
    last = linear.y if flat and not bias else ""
    value = graph.add("Transpose", product, output=last, perm=[1, 0])
    if bias:
        value = graph.add("Add", value, bias[0], output=linear.y if flat else "")
    if not flat:
        if linear.x not in leading:
            leading[linear.x] = graph.add("Shape", linear.x, start=0, end=-1)
        width = _sizes(graph, linear.width_out)
        graph.add("Reshape", value, graph.add("Concat", leading[linear.x], width, axis=0), output=linear.y)


def _sizes(graph: Graph, *sizes: int) -> str:
    return graph.hold(np.array(sizes, np.int64), "sizes")


def few_rows_model(
    loss: onnx.ModelProto, changing: Collection[str]
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a finished loss graph with its trained matrices on the left, and which they are."""
    graph = Graph(loss)
    matrices = multiply_from_left(graph, changing) if graph.opset >= _SHAPE_OF_PART else ()
    inputs = [value for value in loss.graph.input if value.name in graph.inputs]
    return graph.finish(inputs, list(loss.graph.output)), matrices


_SHAPE_OF_PART = 15  # since when Shape has start and end
