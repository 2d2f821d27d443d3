"""Finds the linear layers of a graph: a float activation times one stored matrix, quantised or not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto

from .graph import Graph, attributes

_SUFFIX = re.compile(r"(\.weight)?(_quantized|(_DQ)?_Q\d\w*|_dequantized)?$|\.qweight$")
_ANONYMOUS = re.compile(r"^(onnx::\w+_\d+|\d+|.*::.*)$")


@dataclass(frozen=True, eq=False)
class Linear:
    """One use of a stored matrix.

    Attributes:
        node: the node that multiplies.
        x: the float input [..., width_in].
        y: the float output [..., width_out], before a bias that isn't part of ``node``.
        weight: the initializer that holds the matrix.
        transposed: True where it is stored as [in, out].
        module: the source's module path, as far as names tell it.
        dtype: ONNX element type of x and y.
        quantized: whether the stored matrix is integers.
        rounded: whether the graph itself rounds the stored matrix to integers when it runs.
    """

    node: onnx.NodeProto
    x: str
    y: str
    weight: str
    transposed: bool
    width_in: int
    width_out: int
    module: str
    dtype: int = TensorProto.FLOAT
    quantized: bool = False
    rounded: bool = False


def find_linears(graph: Graph) -> list[Linear]:
    """Return every linear layer in the order of the nodes."""
    found = []
    for node in graph.nodes:
        match = _MATCHERS.get(node.op_type)
        linear = match(graph, node) if match is not None else None
        if linear is not None:
            found.append(linear)
    return found


def _matmul(graph: Graph, node: onnx.NodeProto) -> Linear | None:
    return _plain(graph, node, flip=False)


def _gemm(graph: Graph, node: onnx.NodeProto) -> Linear | None:
    held = attributes(node)
    if held.get("transA", 0) or held.get("alpha", 1.0) != 1.0:
        return None
    return _plain(graph, node, flip=bool(held.get("transB", 0)))


def _fused(graph: Graph, node: onnx.NodeProto) -> Linear | None:
    held = attributes(node)
    if (
        any(held.get(name, 0) for name in ("transA", "transBatchA", "transBatchB"))
        or held.get("alpha", 1.0) != 1.0
    ):
        return None
    return _plain(graph, node, flip=bool(held.get("transB", 0)))


def _einsum(graph: Graph, node: onnx.NodeProto) -> Linear | None:
    """Return the layer of an Einsum such as "bti,oi->bto": a matrix, and an activation whose last axis it sums over."""
    terms, arrow, result = attributes(node)["equation"].decode().replace(" ", "").partition("->")
    named = terms.split(",")
    if not arrow or len(named) != 2 or len(node.input) != 2:
        return None
    for place, matrix in enumerate(named):
        if len(matrix) != 2 or "." in matrix or matrix[0] == matrix[1]:
            continue
        x = named[1 - place]
        inner, out = matrix if x.endswith(matrix[0]) else matrix[::-1]
        if x.endswith(inner) and inner not in x[:-1] + result and out not in x and result == x[:-1] + out:
            return _plain(graph, node, flip=matrix == out + inner, place=place)
    return None


def _plain(graph: Graph, node: onnx.NodeProto, *, flip: bool, place: int = 1) -> Linear | None:
    read, x = node.input[place], node.input[1 - place]
    traced = trace_weight(graph, read)
    if traced is None:
        return None
    weight, flipped = traced
    linear = _linear(graph, node, x, node.output[0], weight, flipped != flip, _dtype(graph, read))
    return None if linear is None else replace(linear, rounded=_is_rounded(graph, read))


def _matmul_integer(graph: Graph, node: onnx.NodeProto) -> Linear | None:
    """MatMulInteger(quantised x, W) -> Cast -> Mul by both scales, as dynamic quantisation writes it."""
    x = _before_quantizing(graph, node.input[0])
    cast = _only_reader(graph, node.output[0], "Cast")
    scaled = _only_reader(graph, cast.output[0], "Mul") if cast is not None else None
    if x is None or scaled is None:
        return None
    return _linear(graph, node, x, scaled.output[0], node.input[1], False)


def _to_float(graph: Graph, node: onnx.NodeProto) -> Linear | None:
    x = _before_quantizing(graph, node.input[0])
    return None if x is None else _linear(graph, node, x, node.output[0], node.input[1], False)


def _dynamic(graph: Graph, node: onnx.NodeProto) -> Linear | None:
    return _linear(graph, node, node.input[0], node.output[0], node.input[1], False)


def _qlinear(graph: Graph, node: onnx.NodeProto) -> Linear | None:
    """QuantizeLinear -> QLinearMatMul -> DequantizeLinear: x before the first, y after the last."""
    x = _before_quantizing(graph, node.input[0])
    last = _only_reader(graph, node.output[0], "DequantizeLinear")
    if x is None or last is None:
        return None
    return _linear(graph, node, x, last.output[0], node.input[3], False)


def _nbits(graph: Graph, node: onnx.NodeProto) -> Linear | None:
    held = attributes(node)
    if node.input[1] not in graph.initializers:
        return None
    module, dtype = _module(node, node.input[1]), _dtype(graph, node.input[2])
    weight, x, y = node.input[1], node.input[0], node.output[0]
    return Linear(node, x, y, weight, False, held["K"], held["N"], module, dtype, quantized=True)


_MATCHERS: dict[str, Callable[[Graph, onnx.NodeProto], Linear | None]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "FusedMatMul": _fused,
    "MatMulInteger": _matmul_integer,
    "MatMulIntegerToFloat": _to_float,
    "DynamicQuantizeMatMul": _dynamic,
    "QLinearMatMul": _qlinear,
    "MatMulNBits": _nbits,
}


_INTEGER_PRODUCTS = ("MatMulInteger", "QAttention", "QGemm", "QLinearMatMul")


def integer_products(graph: Graph) -> tuple[str, ...]:
    """Return the operators of products that are no ``Linear``, as what they make are integers."""
    linear = {id(each.node) for each in find_linears(graph)}
    products = (node for node in graph.nodes if node.op_type in _INTEGER_PRODUCTS)
    return tuple(sorted({node.op_type for node in products if id(node) not in linear}))


def trace_weight(graph: Graph, value: str) -> tuple[str, bool] | None:
    """Return (initializer, whether it is read transposed) where a value is a stored tensor; else None."""
    flipped = False
    while value not in graph.initializers:
        node = graph.producer(value)
        if node is None:
            return None
        if node.op_type == "Transpose":
            perm = attributes(node).get("perm", [1, 0])
            if list(perm) != [1, 0]:
                return None
            flipped = not flipped
        elif node.op_type not in ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear"):
            return None
        value = node.input[0]
    return value, flipped


def _linear(
    graph: Graph,
    node: onnx.NodeProto,
    x: str,
    y: str,
    weight: str,
    flipped: bool,
    dtype: int = TensorProto.FLOAT,
) -> Linear | None:
    """Build the description where ``weight`` is a stored matrix; ``flipped`` means [out, in]."""
    tensor = graph.initializers.get(weight)
    if tensor is None or len(tensor.dims) != 2 or x in graph.initializers:
        return None
    out, inner = tensor.dims if flipped else reversed(tensor.dims)
    quantized = tensor.data_type not in _FLOATS
    return Linear(node, x, y, weight, not flipped, inner, out, _module(node, weight), dtype, quantized)


_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def _dtype(graph: Graph, value: str) -> int:
    """Return the element type of a traced weight where it is multiplied."""
    while value not in graph.initializers:
        node = graph.producer(value)
        if node is None:
            return int(TensorProto.FLOAT)
        if node.op_type == "Cast":
            return int(attributes(node)["to"])
        value = node.input[1 if node.op_type == "DequantizeLinear" else 0]
    return int(graph.initializers[value].data_type)


def _is_rounded(graph: Graph, value: str) -> bool:
    """Return whether a QuantizeLinear lies between an initializer and a traced value."""
    node = graph.producer(value)
    while node is not None and node.op_type != "QuantizeLinear":
        node = graph.producer(node.input[0])
    return node is not None


def _before_quantizing(graph: Graph, value: str) -> str | None:
    node = graph.producer(value)
    quantizes = node is not None and node.op_type in ("DynamicQuantizeLinear", "QuantizeLinear")
    return node.input[0] if node is not None and quantizes else None


def _only_reader(graph: Graph, value: str, op: str) -> onnx.NodeProto | None:
    readers = graph.consumers(value)
    return readers[0] if len(readers) == 1 and readers[0].op_type == op else None


def _module(node: onnx.NodeProto, weight: str) -> str:
    """Return the module path from the weight's name, or from the node's scope where that has no name."""
    scope = [part for part in node.name.split("/")[:-1] if part]
    if _ANONYMOUS.match(weight.removesuffix("_quantized")) and scope:
        return ".".join(scope)
    return _SUFFIX.sub("", weight, count=1) or weight
