"""Names what a model computes its loss from and no run can train, so that shares and totals are honest."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import onnx
from msgspec import structs
from onnx import TensorProto, helper

from zoedge.manifest import SETTING, Frozen
from zoedge.names import in_graph

from .graph import Graph, attributes, subgraphs
from .roles import is_rounded, why_frozen
from .subgraphs import flattened, walk

_FLOATS = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
_ROUNDED = {
    getattr(TensorProto, name): name.lower().replace("float8", "float8_")
    for name in (
        "INT8",
        "UINT8",
        "INT16",
        "UINT16",
        "INT4",
        "UINT4",
        "FLOAT8E4M3FN",
        "FLOAT8E4M3FNUZ",
        "FLOAT8E5M2",
        "FLOAT8E5M2FNUZ",
    )
}


def frozen_tensors(graph: Graph, live: Collection[str], listed: Collection[str]) -> tuple[Frozen, ...]:
    """Return the tensors of numbers that the loss depends on and that are no parameters.

    Args:
        graph: the inference graph, only read.
        live: values that the loss depends on.
        listed: names of the parameters.
    """
    flat = flattened(graph)
    whole = onnx.GraphProto(
        node=graph.nodes,
        initializer=graph.initializers.values(),
        sparse_initializer=graph.proto.sparse_initializer,
    )
    found = [row for name, row in _held(flat, whole) if name in live and name not in listed]
    for node in graph.nodes:
        if not any(output in live for output in node.output):
            continue
        alone = onnx.GraphProto(node=[node])
        for inner in walk(alone):
            found += [row for _, row in _held(flat, inner)]
        found += _attributes(node)
    packed = _packed(graph)
    rows = (structs.replace(row, shape=packed[row.name]) if row.name in packed else row for row in found)
    own = (row for row in rows if not row.name.startswith(in_graph("")))  # and no constants that export added
    return tuple(sorted(own, key=lambda row: row.name))


def _packed(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Return [out, in] of the matrices of which several elements share a byte."""
    held = ((node, attributes(node)) for node in graph.nodes if node.op_type in ("MatMulNBits", "MatMulBnb4"))
    return {node.input[1]: (settings["N"], settings["K"]) for node, settings in held}


def _held(flat: Graph, graph: onnx.GraphProto) -> Iterator[tuple[str, Frozen]]:
    """Yield (value, row) for the tensors of one level: initializers and Constants."""
    for tensor in graph.initializer:
        kind = tensor.data_type
        if (
            kind in _FLOATS
            or kind in _ROUNDED
            or (kind == TensorProto.INT32 and is_rounded(flat, tensor.name))
        ):
            yield tensor.name, _row(flat, tensor.name, tensor)
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, _sparse(sparse.values.name, sparse)
    for node in graph.node:
        name = node.output[0] if node.op_type == "Constant" else ""
        for held in node.attribute if name else ():
            value = helper.get_attribute_value(held)
            if held.name == "value" and value.data_type in _FLOATS:
                yield name, _row(flat, name, value)
            elif held.name == "sparse_value":
                yield name, _sparse(name, value)
            elif held.name in ("value_float", "value_floats"):
                shape = () if held.name == "value_float" else (len(value),)
                yield name, Frozen(name=name, dtype="float32", shape=shape, reason=why_frozen(flat, name))


def _row(flat: Graph, name: str, tensor: TensorProto) -> Frozen:
    dtype = _FLOATS.get(tensor.data_type) or _ROUNDED.get(tensor.data_type, "int32")
    shape = tuple(tensor.dims)
    reason = why_frozen(flat, name) if dtype == "float32" else f"stored as {dtype}"
    if math.prod(shape) == 1 and tensor.data_type in _ROUNDED:  # a zero point
        reason = SETTING
    return Frozen(name=name, dtype=dtype, shape=shape, reason=reason)


def _sparse(name: str, sparse: onnx.SparseTensorProto) -> Frozen:
    dtype = _FLOATS.get(sparse.values.data_type, "integers")
    return Frozen(name=name, dtype=dtype, shape=tuple(sparse.dims), reason="stored as sparse tensors")


def _attributes(node: onnx.NodeProto) -> Iterator[Frozen]:
    """Yield the coefficients of classic models, which are attributes of their nodes."""
    nodes = [node, *(inner for graph in subgraphs(node) for inner in graph.node)]
    for each in nodes:
        if each.domain != "ai.onnx.ml":
            continue
        for held in each.attribute:
            count = len(held.floats) if held.type == onnx.AttributeProto.FLOATS else 0
            if count:
                name = f"{each.name or each.output[0]}.{held.name}"
                yield Frozen(
                    name=name, dtype="float32", shape=(count,), reason=f"attributes of {each.op_type}"
                )
