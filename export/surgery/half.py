"""A graph whose stored tensors are inputs, in float16 up to the logits."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .graph import Graph, attributes
from .precision import CONVERTED, LARGEST, PASSING, Precision, constants_of
from .types import value_types

# What is larger than float16 can hold stands for infinity, in masks. Two masks and a score may be added up, and a row
# of infinities alone has no softmax: so it becomes a number with room above it.
_INFINITE = 30000.0
_NAMES = {int(TensorProto.FLOAT16): "float16", int(TensorProto.FLOAT): "float32"}


def to_half(
    model: onnx.ModelProto, tensors: Collection[str], crossing: Collection[str] = ()
) -> onnx.ModelProto:
    """Return the graph with float16 tensors, which computes in float16 what doesn't need float32.

    Outputs keep their types. float32 inputs that are no tensors do, too, and are rounded where they are read.

    Args:
        model: finished; not changed.
        tensors: names of the inputs that are stored tensors.
        crossing: other inputs and outputs that become float16.
    """
    return _Half(model, frozenset(tensors), frozenset(crossing)).converted()


class _Half:
    def __init__(self, model: onnx.ModelProto, tensors: frozenset[str], crossing: frozenset[str]) -> None:
        self._model, self._halves = model, tensors | crossing
        self._graph = Graph(model)
        self._types = value_types(self._graph, model)
        self._constants = constants_of(self._graph, self._types)
        self._precision = Precision(self._graph, self._types, tensors, crossing)
        self._nodes = list(self._graph.in_order())
        self._final = {
            value: self._precision.type_of(value) for value in self._types if self._precision.converts(value)
        }
        self._huge: set[str] = set()
        self._made: dict[tuple[str, int], str] = {}

    def converted(self) -> onnx.ModelProto:
        outputs = [self._output(value) for value in self._model.graph.output]
        for node in self._nodes:
            self._convert(node)
        for value, wanted in outputs:
            self._give(value.name, wanted)
        graph = self._graph
        return graph.finish([self._input(v) for v in self._model.graph.input], [v for v, _ in outputs])

    def _input(self, value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        kind = value.type.tensor_type.elem_type
        if value.name not in self._halves or kind not in CONVERTED:
            return value
        return _retyped(value, TensorProto.FLOAT16)

    def _output(self, value: onnx.ValueInfoProto) -> tuple[onnx.ValueInfoProto, int]:
        half = value.name in self._halves and value.type.tensor_type.elem_type in CONVERTED
        kind = int(TensorProto.FLOAT16 if half else value.type.tensor_type.elem_type)
        return _retyped(value, kind), kind

    def _convert(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Constant":
            return  # readers get copies
        reads = [*node.input]
        for place, value in enumerate(reads):
            if self._precision.converts(value):
                node.input[place] = self._as(value, self._precision.input_type(node, place))
        made = [value for value in node.output if self._precision.converts(value)]
        if node.op_type == "Cast" and made:
            _set_target(node, self._final[made[0]])
        if node.op_type in PASSING and any(map(self._is_huge, reads)):
            self._huge.update(made)

    def _is_huge(self, value: str) -> bool:
        array = self._constants.get(value)
        if array is None:
            return value in self._huge
        finite = np.abs(array[np.isfinite(array)].astype(np.float64))
        return bool(finite.max(initial=0.0) > LARGEST)

    def _as(self, value: str, kind: int) -> str:
        """Return the name of a value in one of both types."""
        if (value, kind) not in self._made:
            self._made[value, kind] = self._make(value, kind)
        return self._made[value, kind]

    def _make(self, value: str, kind: int) -> str:
        graph, name = self._graph, _NAMES[kind]
        if value in self._constants:
            if kind == TensorProto.FLOAT and self._types[value] == kind:
                return value
            held = numpy_helper.from_array(self._rounded(value, kind), graph.fresh(f"{value}/{name}"))
            graph.declare(held)
            return str(held.name)
        if self._final[value] == kind:
            return value
        maker = graph.producer(value)
        stepped = maker is not None and maker.op_type == "Cast" and kind == TensorProto.FLOAT16
        if maker is not None and stepped and self._types.get(maker.input[0]) == TensorProto.FLOAT16:
            return str(maker.input[0])  # a source's own step up and back
        narrowed = value
        if kind == TensorProto.FLOAT16 and value in self._huge:
            bounds = (graph.hold(np.float32(bound), "bound") for bound in (-_INFINITE, _INFINITE))
            narrowed = graph.add("Clip", value, *bounds, output=graph.fresh(f"{value}/bounded"))
        return graph.add("Cast", narrowed, output=graph.fresh(f"{value}/{name}"), to=kind)

    def _rounded(self, value: str, kind: int) -> np.ndarray:
        array = self._constants[value].astype(np.float32)
        if kind == TensorProto.FLOAT:
            return array
        large = np.isfinite(array) & (np.abs(array) > LARGEST)
        return np.where(large, np.copysign(np.float32(_INFINITE), array), array).astype(np.float16)

    def _give(self, value: str, wanted: int) -> None:
        """Let an output be of the type that it is declared with."""
        if not self._precision.converts(value) or self._final[value] == wanted:
            return
        inner = self._graph.rename(value, f"{value}/{_NAMES[self._final[value]]}")
        self._graph.add("Cast", inner, output=value, to=wanted)


def _retyped(value: onnx.ValueInfoProto, kind: int) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.type.tensor_type.elem_type = kind
    return copy


def _set_target(node: onnx.NodeProto, kind: int) -> None:
    if attributes(node)["to"] != kind:
        kept = [attribute for attribute in node.attribute if attribute.name != "to"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("to", kind)])
