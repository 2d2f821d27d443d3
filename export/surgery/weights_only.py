"""Products of rounded activations and rounded matrices, as products of float activations and the same matrices.

Processors gain by rounding both; accelerators have no such operators, and nothing to gain for few rows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .graph import Graph
from .linears import Linear, find_linears

_PER_COLUMN_SINCE = 13  # opset


class _Stored(NamedTuple):
    """How a rounded matrix is stored: w = (values - zero) * scale; "" where there is no zero or bias."""

    values: str
    scale: str
    zero: str
    bias: str


def multiply_floats(graph: Graph) -> bool:
    """Let linear layers that round their activations multiply them as they are, in place; whether any does."""
    found = [(linear, _stored(graph, linear)) for linear in find_linears(graph)]
    matrices: dict[tuple[str, str, str], str] = {}
    attrs: dict[str, Any] = {"axis": 1} if graph.opset >= _PER_COLUMN_SINCE else {}
    changed = False
    for linear, stored in found:
        if stored is None or not _fits(graph, stored):
            continue
        changed = True
        graph.divert(linear.y, f"{linear.y}/integers")
        key = stored[:3]
        if key not in matrices:
            matrices[key] = graph.add("DequantizeLinear", *filter(None, key), output="", **attrs)
        if stored.bias:
            product = graph.add("MatMul", linear.x, matrices[key])
            graph.add("Add", product, stored.bias, output=linear.y)
        else:
            graph.add("MatMul", linear.x, matrices[key], output=linear.y)
    return changed


def _stored(graph: Graph, linear: Linear) -> _Stored | None:
    node = linear.node
    read = [*node.input, *[""] * 7]
    if node.op_type == "MatMulIntegerToFloat":
        return _Stored(read[1], read[3], read[5], read[6])
    if node.op_type == "DynamicQuantizeMatMul":
        return _Stored(read[1], read[2], read[3], read[4])
    if node.op_type == "MatMulInteger":
        return _Stored(read[1], _scale_behind(graph, linear), read[3], "")
    return None


def _scale_behind(graph: Graph, linear: Linear) -> str:
    """Return the matrix's scale of MatMulInteger -> Cast -> Mul(x, Mul(activation's scale, matrix's)); "" without."""
    last = graph.producer(linear.y)
    factors = list(last.input) if last is not None else []
    for value in factors:
        both = graph.producer(value)
        if both is not None and both.op_type == "Mul":
            return next((factor for factor in both.input if factor in graph.initializers), "")
    return ""


def _fits(graph: Graph, stored: _Stored) -> bool:
    """Whether DequantizeLinear can read the matrix [in, out]: one scale in all, or one for each column."""
    matrix, scale = graph.shape(stored.values), graph.shape(stored.scale)
    if stored.values not in graph.initializers or matrix is None or scale is None:
        return False
    zero = graph.shape(stored.zero) if stored.zero else scale
    if zero is None or math.prod(zero) != math.prod(scale):
        return False
    return math.prod(scale) == 1 or (scale == matrix[-1:] and graph.opset >= _PER_COLUMN_SINCE)
