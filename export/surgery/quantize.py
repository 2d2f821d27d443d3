"""Rewrites float linear layers to compute with integer matrices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import onnx
from onnx import TensorProto, helper

from zoedge.manifest import QuantizedMatrix

from .graph import Array, Graph, attributes
from .linears import Linear, find_linears
from .rounding import INT4_BLOCK, Rounded, round_int4, round_int8

MICROSOFT = "com.microsoft"
# fp32 arithmetic: level 4, int8 activations per block, is faster below some 50 rows only and makes the loss a
# step function
_INT4_ACCURACY_LEVEL = 1

_TYPES = {"int8": TensorProto.INT8, "int4": TensorProto.UINT8}
_ROUND: dict[str, Callable[[Array], Rounded]] = {"int8": round_int8, "int4": round_int4}


def find_quantizable(graph: Graph, kept: Collection[str] = ()) -> dict[str, list[Linear]]:
    """Return weight -> the linear layers that are to read it as integers: float32 matrices outside ``kept``.

    A matrix that layers read both as it is and turned, or that one of them can't read as integers, stays as it is.
    """
    found: dict[str, list[Linear]] = {}
    for linear in find_linears(graph):
        found.setdefault(linear.weight, []).append(linear)
    return {
        weight: uses
        for weight, uses in found.items()
        if weight not in kept
        and all(_fits(graph, use) and use.transposed == uses[0].transposed for use in uses)
    }


def _fits(graph: Graph, linear: Linear) -> bool:
    """Whether a layer multiplies with a float32 matrix as our integer operators do."""
    stored = graph.initializers[linear.weight]
    floats = linear.dtype == TensorProto.FLOAT and stored.data_type == TensorProto.FLOAT
    op = linear.node.op_type
    plain = op == "MatMul" or (op == "Gemm" and _adds_vector(graph, linear))
    return floats and plain and stored.data_location == TensorProto.EXTERNAL


def _adds_vector(graph: Graph, linear: Linear) -> bool:
    """Whether a Gemm adds nothing, or one number per output."""
    added = [value for value in linear.node.input[2:] if value]
    return not added or (
        attributes(linear.node).get("beta", 1.0) == 1.0 and graph.shape(added[0]) == (linear.width_out,)
    )


def quantize_linears(
    graph: Graph, targets: Mapping[str, list[Linear]], weights: Mapping[str, Array], kind: str
) -> tuple[dict[str, Array], tuple[QuantizedMatrix, ...]]:
    """Let linear layers multiply with rounded matrices.

    int8 rounds activations too, per tensor and run; all layers that read one activation (q, k, v) share that
    work. A matrix that something else reads as well, like an embedding tied to a head, stays beside its copy.

    Args:
        graph: changed in place.
        targets: weight -> its uses, as ``find_quantizable`` returns them.
        weights: the float matrices by name.
        kind: int8 or int4.

    Returns:
        The new tensors by name, and how each matrix is stored.
    """
    graph.import_domain(MICROSOFT)
    tensors: dict[str, Array] = {}
    matrices = []
    activations: dict[str, tuple[str, str, str]] = {}
    for weight, uses in targets.items():
        values, scale = graph.fresh(f"{weight}_quantized"), graph.fresh(f"{weight}_scale")
        stored = weights[weight]
        rounded = _ROUND[kind](stored if uses[0].transposed else stored.T)
        tensors |= {values: rounded.values, scale: rounded.scales}
        _declare(graph, values, _TYPES[kind], rounded.values)
        _declare(graph, scale, TensorProto.FLOAT, rounded.scales)
        for use in uses:
            if kind == "int8":
                _use_int8(graph, use, values, scale, activations)
            else:
                _use_int4(graph, use, values, scale)
        matrices.append(
            QuantizedMatrix(
                name=weight, values=values, scale=scale, shape=stored.shape, transposed=uses[0].transposed
            )
        )
    return tensors, tuple(matrices)


def _use_int8(
    graph: Graph, use: Linear, values: str, scale: str, activations: dict[str, tuple[str, str, str]]
) -> None:
    if use.x not in activations:
        names = (
            graph.fresh(f"{use.x}_quantized"),
            graph.fresh(f"{use.x}_scale"),
            graph.fresh(f"{use.x}_zero"),
        )
        graph.append(helper.make_node("DynamicQuantizeLinear", [use.x], names, name=f"{names[0]}/node"))
        activations[use.x] = names
    x, x_scale, x_zero = activations[use.x]
    _replace(graph, use, "MatMulIntegerToFloat", [x, values, x_scale, scale, x_zero, ""])


def _use_int4(graph: Graph, use: Linear, values: str, scale: str) -> None:
    shape = {"K": use.width_in, "N": use.width_out, "bits": 4, "block_size": INT4_BLOCK}
    inputs = [use.x, values, scale, "", ""]
    _replace(graph, use, "MatMulNBits", inputs, **shape, accuracy_level=_INT4_ACCURACY_LEVEL)


def _replace(graph: Graph, use: Linear, op: str, inputs: list[str], **attrs: int) -> None:
    """Let another node make what a linear layer makes, its bias included, which saves a pass over memory."""
    output, bias = _with_bias(graph, use)
    graph.divert(output, f"{output}/float")
    inputs = [*inputs, bias] if bias else inputs
    while not inputs[-1]:
        inputs = inputs[:-1]
    node = helper.make_node(op, inputs, [output], name=use.node.name, domain=MICROSOFT, **attrs)
    graph.append(node, before=use.node)  # layers keep their order


def _with_bias(graph: Graph, use: Linear) -> tuple[str, str]:
    """Return the value that a layer's bias is added to already, and the bias; the bias is "" without one."""
    if use.node.op_type == "Gemm" and any(use.node.input[2:]):
        return use.y, use.node.input[2]
    readers = graph.consumers(use.y)
    if len(readers) == 1 and readers[0].op_type == "Add" and use.y not in graph.outputs:
        (other,) = [value for value in readers[0].input if value != use.y] or [""]
        if other in graph.initializers and graph.shape(other) == (use.width_out,):
            return readers[0].output[0], other
    return use.y, ""


def _declare(graph: Graph, name: str, kind: int, array: Array) -> None:
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    graph.declare(tensor)
