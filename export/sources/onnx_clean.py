"""Gives every weight of an ONNX graph one initializer of its own, before anything else looks at the graph."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import TensorProto, inliner

from .onnx_tensors import Array, inline_array, without_data

_INLINE_BYTES = 1024  # larger tensors leave the graph; onnxruntime needs small ones there to infer shapes


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its local functions written out, so that their weights' uses are visible."""
    return inliner.inline_local_functions(model) if model.functions else model


def drop_default_inputs(model: onnx.ModelProto) -> None:
    """Remove initializers from the inputs, in place: old files list all of them, and none is meant to vary."""
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    del model.graph.input[:]
    model.graph.input.extend(inputs)


def hoist_constants(model: onnx.ModelProto, arrays: dict[str, Array]) -> None:
    """Turn Constant nodes that hold weights into initializers named by their output, in place."""
    kept = []
    for node in model.graph.node:
        tensor = (
            next((a.t for a in node.attribute if a.name == "value"), None)
            if node.op_type == "Constant"
            else None
        )
        if tensor is None or not _holds_weights(tensor):
            kept.append(node)
            continue
        name = node.output[0]
        arrays[name] = inline_array(tensor)
        empty = without_data(tensor)
        empty.name = name
        model.graph.initializer.append(empty)
    _set_nodes(model, kept)


def split_shared(model: onnx.ModelProto, arrays: dict[str, Array], named: Collection[str]) -> None:
    """Undo the sharing of equal tensors behind Identity nodes, in place.

    Exporters merge initializers of equal value: all-zero biases and all-one norms of many layers become one.
    Each gets a tensor of its own again, named by the Identity's output. Other values are only equal where the
    model ties them, so those stay one tensor unless the copy is in ``named``.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        source = tensors.get(node.input[0]) if node.op_type == "Identity" and node.input else None
        if source is None or source.name not in arrays or source.data_type != TensorProto.FLOAT:
            kept.append(node)
            continue
        name, array = node.output[0], arrays[source.name]
        if array.size > 1 and name not in _outputs(model) and (name in named or _is_uniform(array)):
            arrays[name] = array
            empty = without_data(source)
            empty.name = name
            model.graph.initializer.append(empty)
        else:
            kept.append(node)
    _set_nodes(model, kept)


def own_zero_points(model: onnx.ModelProto, arrays: dict[str, Array]) -> None:
    """Give each use of an 8-bit scalar (a zero point) a tensor of its own, in place.

    Where sums would be clipped, onnxruntime makes int8 weights and their zero points unsigned, one by one, and fails
    on a zero point that two of them share.
    """
    tensors = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.INT8}
    used: set[str] = set()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name not in tensors or name not in arrays or arrays[name].size != 1:
                continue
            if name in used:
                own = f"{name}/{node.output[0]}/{index}"
                copy = onnx.TensorProto()
                copy.CopyFrom(tensors[name])
                copy.name = own
                arrays[own] = arrays[name]
                model.graph.initializer.append(copy)
                node.input[index] = own
            used.add(name)


def place_tensors(
    model: onnx.ModelProto, arrays: dict[str, Array], parameters: Collection[str]
) -> dict[str, Array]:
    """Give small settings their data back inside the graph, in place; return the tensors that lie outside.

    Outside are the parameters, matrices of any type, and whatever is large.
    """
    outside: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        array = arrays.get(tensor.name)
        if array is None:
            continue
        if tensor.name in parameters or len(tensor.dims) >= 2 or array.nbytes > _INLINE_BYTES:
            tensor.CopyFrom(without_data(tensor))
            outside[tensor.name] = array
        elif tensor.data_location == TensorProto.EXTERNAL or not _has_data(tensor):
            tensor.CopyFrom(without_data(tensor))
            tensor.ClearField("data_location")
            tensor.raw_data = array.tobytes()
    return outside


def _holds_weights(tensor: TensorProto) -> bool:
    if tensor.data_type == TensorProto.STRING:
        return False
    array = inline_array(tensor)
    floats = (
        tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16) and array.ndim > 0 and array.size > 1
    )
    return floats or array.nbytes > _INLINE_BYTES


def _is_uniform(array: Array) -> bool:
    flat = array.reshape(-1)
    return bool((flat[:64] == flat[0]).all()) and bool((flat == flat[0]).all())


def _has_data(tensor: TensorProto) -> bool:
    held = (
        tensor.raw_data,
        tensor.float_data,
        tensor.int32_data,
        tensor.int64_data,
        tensor.double_data,
        tensor.uint64_data,
    )
    return any(len(data) for data in held) or 0 in tensor.dims


def _outputs(model: onnx.ModelProto) -> set[str]:
    return {value.name for value in model.graph.output}


def _set_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    if len(nodes) != len(model.graph.node):
        copies = onnx.GraphProto(node=nodes)
        del model.graph.node[:]
        model.graph.node.extend(copies.node)
