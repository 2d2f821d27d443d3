"""Lifts the weights of branches and bodies to the graph around them, where they can be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import TensorProto, helper

from ..surgery.graph import subgraphs
from ..surgery.subgraphs import name_apart
from .onnx_tensors import Array, without_data

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)

Read = Callable[[TensorProto], Array]


def lift_tensors(model: onnx.ModelProto, arrays: dict[str, Array], read: Read) -> None:
    """Turn float tensors inside If, Loop and Scan into initializers of the model, in place.

    Branches see the values around them, so nothing else changes. Names are made to differ as ``name_apart`` does it.

    Args:
        model: changed.
        arrays: is given the lifted tensors.
        read: returns a tensor's data.
    """
    graph = model.graph
    if not any(True for node in graph.node for _ in subgraphs(node)):
        return
    name_apart(graph)
    for node in graph.node:
        for inner in subgraphs(node):
            for tensor in _taken_out(inner):
                arrays[tensor.name] = read(tensor)
                graph.initializer.append(without_data(tensor))


def _taken_out(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Remove the float tensors of a graph and of those inside it, and yield them."""
    held = [tensor for tensor in graph.initializer if is_lifted(tensor)]
    kept = [tensor for tensor in graph.initializer if not is_lifted(tensor)]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        tensor = _constant(node)
        if tensor is None or not is_lifted(tensor):
            nodes.append(node)
            continue
        lifted = TensorProto()
        lifted.CopyFrom(tensor)
        lifted.name = node.output[0]
        held.append(lifted)
    _set(graph, held, kept, nodes)
    yield from held
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _taken_out(inner)


def _set(
    graph: onnx.GraphProto, held: list[TensorProto], kept: list[TensorProto], nodes: list[onnx.NodeProto]
) -> None:
    """Leave a graph what it keeps; what it returns it makes itself, so a lifted output goes through an Identity."""
    names = {tensor.name for tensor in held}
    for output in graph.output:
        if output.name in names:
            made = f"zoedge/{output.name}"
            nodes.append(helper.make_node("Identity", [output.name], [made]))
            output.name = made
    copies = onnx.GraphProto(initializer=kept, node=nodes)
    held[:] = onnx.GraphProto(initializer=held).initializer
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(copies.initializer)
    graph.node.extend(copies.node)


def _constant(node: onnx.NodeProto) -> TensorProto | None:
    if node.op_type != "Constant":
        return None
    return next((a.t for a in node.attribute if a.name == "value"), None)


def is_lifted(tensor: TensorProto) -> bool:
    """Return whether a constant may be a weight: floats of one axis or more."""
    return tensor.data_type in _FLOATS and len(tensor.dims) > 0
