"""Stored tensors as plain inputs of a graph, and no control flow of ours: what a device with own memory opens."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import onnx
from onnx import TensorProto, helper, numpy_helper

from zoedge.names import PREDICT, in_graph

from .graph import Array, Graph, subgraphs
from .operators import learnt_uses

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_LEVELS = tuple(getattr(TensorProto, name) for name in ("INT8", "UINT8", "INT4", "UINT4"))
_TABLE_BYTES = 1 << 20  # larger tables of float32 are inputs, too, to keep them out of the graph's file


def stored_inputs(graph: Graph, parameters: Collection[str], weights: Mapping[str, Array]) -> dict[str, int]:
    """Return which stored tensors of a graph are to be inputs, name -> element type; the rest become its constants.

    Parameters are inputs, and so are rounded matrices with their scales and weights stored in 16 bits. Indices,
    shapes, single numbers and small tables that lie in the weights file become constants: sizes are computed from
    some, and others (the frequencies of rotary embeddings) need float32.

    Args:
        graph: changed in place.
        parameters: names of the parameter table.
        weights: every tensor of the weights file by name.
    """
    inputs: dict[str, int] = {}
    for name, tensor in list(graph.initializers.items()):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        if name in parameters or _is_weight(graph, tensor):
            inputs[name] = tensor.data_type
        else:
            _inline(graph, tensor, weights[name])
    return inputs


def _is_weight(graph: Graph, tensor: onnx.TensorProto) -> bool:
    size, kind = math.prod(tensor.dims), int(tensor.data_type)
    if size <= 1 or kind in _LEVELS + _HALVES:
        return bool(size > 1)
    rounding = any(
        use == "rounding" and index < len(node.input) and node.input[index] == tensor.name
        for node in graph.consumers(tensor.name)
        for index, use in learnt_uses(node).items()
    )
    return bool(kind == TensorProto.FLOAT and (rounding or 4 * size > _TABLE_BYTES))


def declared_tensors(graph: Graph, types: Mapping[str, int], outputs: list[str]) -> list[onnx.ValueInfoProto]:
    """Declare those stored tensors as inputs that outputs depend on, and hold them no more, in place."""
    needed = graph.reaching(outputs)
    tensors = [graph.initializers.pop(name) for name in types]
    return [
        helper.make_tensor_value_info(tensor.name, types[tensor.name], list(tensor.dims))
        for tensor in tensors
        if tensor.name in needed
    ]


def predict_always(graph: Graph) -> bool:
    """Replace the choice whether predictions are computed by computing them, in place; whether there is one."""
    choices = [node for node in graph.nodes if list(node.input) == [in_graph(PREDICT)]]
    for node in choices:
        (output,) = node.output
        body = next(a.g for a in node.attribute if a.name == "then_branch")
        graph.divert(output, f"{output}/choice")
        (inner,) = body.node
        made = onnx.NodeProto()
        made.CopyFrom(inner)
        made.output[:] = [output]
        made.name = node.name
        graph.append(made)
    return bool(choices)


def control_flow(model: onnx.ModelProto) -> str:
    """Return an operator of a finished graph that holds graphs itself; "" where none does."""
    held = (node.op_type for node in model.graph.node if any(True for _ in subgraphs(node)))
    return next(held, "")


def _inline(graph: Graph, tensor: onnx.TensorProto, array: Array) -> None:
    """Let all readers of a stored tensor read a constant of another name; types that NumPy lacks come as raw bits."""
    held = numpy_helper.from_array(array.reshape(tuple(tensor.dims)), graph.fresh(in_graph(tensor.name)))
    held.data_type = tensor.data_type
    graph.declare(held)
    graph.redirect(tensor.name, held.name)
