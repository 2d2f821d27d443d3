"""A graph that computes on any processor what another one does in float16: every result is rounded to float16.

onnxruntime's CPU provider keeps float32 between operators that it has no float16 kernels for, so running a float16
graph there shows neither its rounding nor what overflows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
    return _Rounding(model).made(stored)


class _Rounding:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = Graph(model)
        self._types = value_types(self._graph, model)
        self._copy = onnx.ModelProto()
        self._copy.CopyFrom(model)
        self._renamed: dict[str, str] = {}

    def made(self, stored: Mapping[str, int]) -> onnx.ModelProto:
        graph = self._copy.graph
        nodes = [each for value in graph.input for each in self._input(value, stored)]
        for node in list(graph.node):
            nodes += self._node(node)
        for tensor in graph.initializer:
            if tensor.data_type == _HALF:
                tensor.CopyFrom(_in_float32(tensor))
        for value in graph.output:
            if value.type.tensor_type.elem_type == _HALF:
                value.type.tensor_type.elem_type = _FULL
        copies = onnx.GraphProto(node=nodes)
        del graph.node[:]
        graph.node.extend(copies.node)
        return self._copy

    def _input(self, value: onnx.ValueInfoProto, stored: Mapping[str, int]) -> Iterator[onnx.NodeProto]:
        if value.type.tensor_type.elem_type != _HALF:
            return
        kind = stored[value.name]
        value.type.tensor_type.elem_type = kind
        self._renamed[value.name] = self._graph.fresh(f"{value.name}/rounded")
        yield from self._there_and_back(value.name, kind, self._renamed[value.name])

    def _node(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        node.input[:] = [self._renamed.get(value, value) for value in node.input]
        yield node
        if node.op_type in VIEWS:
            return
        for place, output in enumerate(node.output):
            if self._types.get(output) != _HALF:
                continue
            if node.op_type == "Constant":
                held = helper.make_attribute("value", _in_float32(attributes(node)["value"]))
                del node.attribute[:]
                node.attribute.append(held)
                continue
            node.output[place] = self._graph.fresh(f"{output}/exact")
            kind = _HALF if node.op_type == "Cast" else _FULL
            yield from self._there_and_back(node.output[place], kind, output)

    def _there_and_back(self, value: str, kind: int, output: str) -> Iterator[onnx.NodeProto]:
        """Yield what rounds a value of some type to float16 and makes it float32."""
        for to in {_HALF: (), _FULL: (_HALF,)}.get(kind, (_FULL, _HALF)):
            value, before = self._graph.fresh(f"{output}/half"), value
            yield helper.make_node("Cast", [before], [value], to=to)
        yield helper.make_node("Cast", [value], [output], to=_FULL)


def _in_float32(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
