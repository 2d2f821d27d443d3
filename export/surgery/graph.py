"""A graph being edited: who makes and who reads each value, new nodes, and a clean end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from zoedge.manifest import Dim

Array = np.ndarray[Any, Any]

_AXES_INPUT_SINCE = {"Squeeze": 13, "Unsqueeze": 13, "ReduceSum": 13}  # other reductions: 18


class Graph:
    """A weight-free copy of a model, to be changed freely; nodes may be added in any order.

    Args:
        model: initializers whose data lies elsewhere are told by ``data_location`` EXTERNAL.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self.proto = self._model.graph
        self.nodes = list(self.proto.node)
        self.initializers = {tensor.name: tensor for tensor in self.proto.initializer}
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self._names = {name for node in self.nodes for name in [node.name, *_reads(node), *node.output]}
        self._names |= set(self.initializers) | {v.name for v in [*self.proto.input, *self.proto.output]}
        self._index()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that a run must be given."""
        return tuple(v.name for v in self.proto.input if v.name not in self.initializers)

    @property
    def imports(self) -> list[onnx.OperatorSetIdProto]:
        """The operator sets that nodes come from."""
        return list(self._model.opset_import)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's outputs before the surgery."""
        return tuple(v.name for v in self.proto.output)

    def producer(self, value: str) -> onnx.NodeProto | None:
        """Return the node that makes a value; None for inputs and initializers."""
        return self._producers.get(value)

    def consumers(self, value: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a value, themselves or inside a subgraph, in order."""
        return self._consumers.get(value, [])

    def constant(self, value: str) -> Array | None:
        """Return the data of an inline initializer or a Constant node; None for anything else."""
        tensor = self.initializers.get(value)
        if tensor is not None:
            inline = tensor.data_location != onnx.TensorProto.EXTERNAL
            return _array(tensor) if inline else None
        node = self.producer(value)
        if node is None or node.op_type != "Constant":
            return None
        held = attributes(node)
        if isinstance(held.get("value"), onnx.TensorProto):
            return _array(held["value"])
        numbers = next((v for k, v in held.items() if k.startswith(("value_int", "value_float"))), None)
        return None if numbers is None else np.asarray(numbers)

    def shape(self, value: str) -> tuple[int, ...] | None:
        """Return the shape of an initializer or a Constant; None for anything else."""
        if value in self.initializers:
            return tuple(self.initializers[value].dims)
        constant = self.constant(value)
        return None if constant is None else constant.shape

    def fresh(self, hint: str) -> str:
        """Return ``hint``, or the first of hint_1, hint_2, ... that no value or node has."""
        name, count = hint, 0
        while name in self._names:
            count += 1
            name = f"{hint}_{count}"
        self._names.add(name)
        return name

    def add(self, op: str, *inputs: str, output: str = "", **attrs: Any) -> str:
        """Add a node with one output and return the output's name, made from ``op`` unless given."""
        output = output or self.fresh(f"zoedge/{op}")
        self.append(helper.make_node(op, inputs, [output], name=self.fresh(f"{output}/node"), **attrs))
        return output

    def append(self, node: onnx.NodeProto, before: onnx.NodeProto | None = None) -> None:
        """Add a node whose outputs have names already, at the end or before another."""
        self._names.update(node.output)
        places = (index for index, other in enumerate(self.nodes) if other is before)
        self.nodes.insert(next(places, len(self.nodes)), node)
        for output in filter(None, node.output):
            self._producers[output] = node
        for value in dict.fromkeys(_reads(node)):
            self._consumers.setdefault(value, []).append(node)

    def import_domain(self, domain: str) -> None:
        """Declare that nodes come from a domain besides ONNX's own."""
        if all(o.domain != domain for o in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(domain, 1))

    def hold(self, value: Array | np.generic, hint: str = "constant") -> str:
        """Add a small inline initializer and return its name."""
        name = self.fresh(f"zoedge/{hint}")
        self.declare(numpy_helper.from_array(np.asarray(value), name))
        return name

    def declare(self, tensor: onnx.TensorProto) -> None:
        """Add an initializer."""
        self._names.add(tensor.name)
        self.initializers[tensor.name] = tensor

    def reduce(self, op: str, value: str, axes: Sequence[int], *, keepdims: bool = False) -> str:
        """Add a reduction over ``axes``, in the form that the opset has."""
        return self._with_axes(op, value, axes, keepdims=int(keepdims))

    def squeeze(self, value: str, axis: int) -> str:
        """Add a Squeeze of one axis."""
        return self._with_axes("Squeeze", value, [axis])

    def unsqueeze(self, value: str, axis: int) -> str:
        """Add an Unsqueeze of one axis."""
        return self._with_axes("Unsqueeze", value, [axis])

    def set_input(self, node: onnx.NodeProto, index: int, value: str) -> None:
        """Let one input of a node be another value."""
        node.input[index] = value
        self._index()

    def redirect(self, value: str, other: str) -> None:
        """Let every reader of a value read another one, but for the node that makes that."""
        maker = self.producer(other)
        for node in [node for node in self.consumers(value) if node is not maker]:
            _replace_reads(node, value, other)
        self._index()

    def divert(self, value: str, hint: str) -> str:
        """Free the name of a value: its producer writes a new name, which is returned; readers keep theirs."""
        node = self._producers[value]
        renamed = self.fresh(hint)
        node.output[list(node.output).index(value)] = renamed
        self._index()
        return renamed

    def rename(self, value: str, hint: str) -> str:
        """Give an intermediate value another name, for its producer and all its readers."""
        readers = list(self.consumers(value))
        renamed = self.divert(value, hint)
        for node in readers:
            _replace_reads(node, value, renamed)
        self._index()
        return renamed

    def reaching(self, outputs: Sequence[str]) -> set[str]:
        """Return every value that ``outputs`` depend on, themselves included."""
        seen: set[str] = set()
        waiting = list(outputs)
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            node = self.producer(value)
            if node is not None:
                waiting += _reads(node)
        return seen

    @staticmethod
    def reads(node: onnx.NodeProto) -> list[str]:
        """Return the values a node reads, also those that its subgraphs take from outside."""
        return _reads(node)

    def in_order(self) -> Iterator[onnx.NodeProto]:
        """Yield every node after those it reads."""
        return self._in_order({output for node in self.nodes for output in node.output})

    def finish(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """Return the model with these inputs and outputs, in execution order, without what they don't need."""
        needed = self.reaching([value.name for value in outputs])
        graph = onnx.GraphProto(
            name=self.proto.name,
            node=list(self._in_order(needed)),
            initializer=[tensor for name, tensor in self.initializers.items() if name in needed],
            sparse_initializer=self.proto.sparse_initializer,
            input=inputs,
            output=outputs,
        )
        self._model.graph.CopyFrom(graph)
        return self._model

    def _in_order(self, needed: set[str]) -> Iterator[onnx.NodeProto]:
        """Yield the needed nodes, each after those it reads, else in the order they have."""
        done: set[int] = set()
        for start in self.nodes:
            stack = [start] if needed.intersection(start.output) else []
            while stack:
                node = stack[-1]
                makers = (self.producer(value) for value in _reads(node))
                missing = [maker for maker in makers if maker is not None and id(maker) not in done]
                if missing:
                    stack += missing
                    continue
                stack.pop()
                if id(node) not in done:
                    done.add(id(node))
                    yield node

    def _with_axes(self, op: str, value: str, axes: Sequence[int], **attrs: int) -> str:
        if self.opset >= _AXES_INPUT_SINCE.get(op, 18):
            return self.add(op, value, self.hold(np.array(axes, np.int64), "axes"), output="", **attrs)
        return self.add(op, value, output="", axes=list(axes), **attrs)

    def _index(self) -> None:
        self._producers = {output: node for node in self.nodes for output in node.output if output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(_reads(node)):
                self._consumers.setdefault(value, []).append(node)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _array(tensor: onnx.TensorProto) -> Array:
    array: Array = numpy_helper.to_array(tensor)
    return array


def dims_of(value: onnx.ValueInfoProto) -> tuple[Dim, ...] | None:
    """Return the declared shape of an input or output; an unnamed dynamic axis is ""."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim)


def _reads(node: onnx.NodeProto) -> list[str]:
    """Return the values a node reads, also those that its subgraphs take from outside."""
    values = [value for value in node.input if value]
    for graph in subgraphs(node):
        own = {value.name for value in [*graph.input, *graph.initializer]}
        own |= {output for inner in graph.node for output in inner.output}
        inside = [value for inner in graph.node for value in _reads(inner)]
        values += [value for value in [*inside, *(o.name for o in graph.output)] if value not in own]
    return values


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds as attributes: branches and bodies."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _replace_reads(node: onnx.NodeProto, old: str, new: str) -> None:
    for index, value in enumerate(node.input):
        if value == old:
            node.input[index] = new
    for graph in subgraphs(node):
        for inner in graph.node:
            _replace_reads(inner, old, new)
        for output in graph.output:
            if output.name == old:
                output.name = new
