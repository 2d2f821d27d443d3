"""A graph that computes on any processor what another one does in float16: every result is rounded to float16.

onnxruntime's CPU provider keeps float32 between operators that it has no float16 kernels for, so running a float16
graph there shows neither its rounding nor what overflows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .graph import Graph, attributes
from .precision import VIEWS
from .types import value_types

_HALF, _FULL = int(TensorProto.FLOAT16), int(TensorProto.FLOAT)


def rounding_each(model: onnx.ModelProto, stored: Mapping[str, int]) -> onnx.ModelProto:
    """Return a float32 graph whose values are those that a graph has in float16.

    Args:
        model: finished, in float16; not changed.
        stored: input -> the type that it is to have: what a tensor is stored as.
    """
    graph = Graph(model)
    types = value_types(graph, model)
    inputs = [_input(graph, value, stored) for value in model.graph.input]
    for name, tensor in graph.initializers.items():
        if tensor.data_type == _HALF:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name))
    for node in list(graph.in_order()):
        for output in node.output:
            if types.get(output) == _HALF and node.op_type not in VIEWS:
                _round(graph, node, output)
    outputs = [_declared(value, _FULL) for value in model.graph.output]
    return graph.finish(inputs, outputs)


def _input(graph: Graph, value: onnx.ValueInfoProto, stored: Mapping[str, int]) -> onnx.ValueInfoProto:
    if value.type.tensor_type.elem_type != _HALF:
        return value
    kind = stored[value.name]
    inner = graph.replace(value.name, f"{value.name}/rounded")
    given = value.name if kind in (_HALF, _FULL) else graph.add("Cast", value.name, to=_FULL)
    half = given if kind == _HALF else graph.add("Cast", given, to=_HALF)
    graph.add("Cast", half, output=inner, to=_FULL)
    return _declared(value, kind)


def _declared(value: onnx.ValueInfoProto, kind: int) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    if copy.type.tensor_type.elem_type == _HALF:
        copy.type.tensor_type.elem_type = kind
    return copy


def _round(graph: Graph, node: onnx.NodeProto, output: str) -> None:
    if node.op_type == "Constant":
        held = attributes(node)["value"]
        array = numpy_helper.to_array(held).astype(np.float32)
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(array)))
        return
    made = graph.divert(output, f"{output}/exact")
    half = made if node.op_type == "Cast" else graph.add("Cast", made, to=_HALF)
    graph.add("Cast", half, output=output, to=_FULL)
