"""The branches and bodies of If, Loop and Scan: names that differ, and the whole as one level of nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import onnx
from onnx import helper

from .graph import Graph, subgraphs


def walk(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield every graph inside a graph's nodes, outer ones first."""
    for node in graph.node:
        for inner in subgraphs(node):
            yield inner
            yield from walk(inner)


def name_apart(graph: onnx.GraphProto) -> None:
    """Let no two values of a graph and the graphs inside it have the same name, in place.

    Branches may use the same names, since none sees into the other: those become NODE/BRANCH/NAME. Names of the graph
    itself stay.
    """
    own, inside = _made(graph), Counter(name for inner in walk(graph) for name in _made(inner))
    taken = own | {name for name, count in inside.items() if count > 1}
    for node in graph.node:
        _name_inner_apart(node, {}, taken)


def flattened(graph: Graph) -> Graph:
    """Return the nodes of a graph and of all graphs inside it on one level, to look at only.

    A value that goes into a branch or body, or comes out of it, does so through an Identity.
    """
    if not any(True for _ in walk(onnx.GraphProto(node=graph.nodes))):
        return graph
    model = onnx.ModelProto(ir_version=8, opset_import=graph.imports)
    model.graph.CopyFrom(
        onnx.GraphProto(node=graph.nodes, input=graph.proto.input, output=graph.proto.output)
    )
    model.graph.initializer.extend(graph.initializers.values())
    name_apart(model.graph)
    nodes = list(_on_one_level(model.graph))
    for inner in walk(model.graph):
        model.graph.initializer.extend(inner.initializer)
    copies = onnx.GraphProto(node=nodes)
    del model.graph.node[:]
    model.graph.node.extend(copies.node)
    return Graph(model)


def _made(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in (*graph.input, *graph.initializer)}
    names |= {sparse.values.name for sparse in graph.sparse_initializer}
    return names | {output for node in graph.node for output in node.output if output}


def _name_inner_apart(node: onnx.NodeProto, outer: Mapping[str, str], taken: set[str]) -> None:
    """Rename what is inside a node; ``outer`` are the new names of values that it may read from outside."""
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            names = {**outer, **{name: _free(name, node, attribute.name, taken) for name in _made(inner)}}
            taken.update(names.values())
            _rename(inner, names, taken)


def _free(name: str, node: onnx.NodeProto, branch: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    start = f"{node.name or node.output[0]}/{branch}/{name}"
    count = 0
    while start in taken:
        count += 1
        start = f"{node.name or node.output[0]}/{branch}/{name}_{count}"
    return start


def _rename(graph: onnx.GraphProto, names: Mapping[str, str], taken: set[str]) -> None:
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = names.get(value, value)
        _name_inner_apart(node, names, taken)


def _on_one_level(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        inside = list(subgraphs(node))
        if not inside:
            yield node
        for inner in inside:
            for before, after in _links(node, inner):
                yield helper.make_node("Identity", [before], [after])
            yield from _on_one_level(inner)


def _links(node: onnx.NodeProto, inner: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """Yield what is the same value outside and inside, from the one that makes it to the one that reads it."""
    inputs, outputs = [value.name for value in inner.input], [value.name for value in inner.output]
    skipped = 2 if node.op_type == "Loop" else 0  # the number of rounds and the condition
    yield from (
        (outside, inside)
        for outside, inside in zip(node.input[skipped:], inputs[skipped:], strict=False)
        if outside
    )
    made = outputs[1:] if node.op_type == "Loop" else outputs
    yield from ((inside, outside) for inside, outside in zip(made, node.output, strict=False) if outside)
