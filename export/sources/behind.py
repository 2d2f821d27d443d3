"""What lies between an output of a graph and the layers before it: values that may be logits, and operators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from ..surgery.graph import Graph, subgraphs
from ..surgery.operators import CONVOLUTIONS, INTEGER_PRODUCTS, PRODUCTS, RECURRENT

_LAYERS = PRODUCTS | INTEGER_PRODUCTS | CONVOLUTIONS | RECURRENT | {"QLinearConv", "ConvInteger"}
_SHAPES = ("Shape", "Size")  # tell nothing of the numbers
_ACTIVATIONS = ("Softmax", "LogSoftmax", "Sigmoid")
_MOST = 64  # values that are looked at


@dataclass(frozen=True)
class Behind:
    """What an output is made of, back to the next layers: nodes with weights of their own.

    Attributes:
        sources: values that the output is a function of without others: what a softmax or sigmoid reads, then the
            nearest.
        activated: those of them that a softmax or sigmoid reads.
        operators: kinds of the nodes, bodies of `If` and the like included.
    """

    sources: tuple[str, ...]
    activated: frozenset[str]
    operators: frozenset[str]


def behind(graph: Graph, output: str) -> Behind:
    """Walk back from an output; the graph is only read."""
    inputs = set(graph.inputs)
    nodes = list(_nodes(graph, output, inputs))
    values = dict.fromkeys(
        value for node in nodes for value in node.input if graph.producer(value) is not None
    )
    sources = [value for value in [*values][:_MOST] if _is_source(graph, output, value, inputs)]
    read = {node.input[0] for node in nodes if node.op_type in _ACTIVATIONS}
    return Behind(
        sources=tuple(sorted(sources, key=lambda value: value not in read)),
        activated=frozenset(read.intersection(sources)),
        operators=frozenset(op for node in nodes for op in _operators(node)),
    )


def _nodes(graph: Graph, output: str, inputs: set[str]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes from an output backwards, no further than layers, the nearest first."""
    waiting, seen = [output], {output}
    while waiting:
        node = graph.producer(waiting.pop(0))
        if node is None or _is_layer(graph, node, inputs):
            continue
        yield node
        fresh = [value for value in Graph.reads(node) if value not in seen]
        seen.update(fresh)
        waiting += fresh


def _is_layer(graph: Graph, node: onnx.NodeProto, inputs: set[str]) -> bool:
    return node.op_type in _LAYERS and any(
        value and inputs.isdisjoint(graph.reaching([value])) for value in node.input
    )


def _is_source(graph: Graph, output: str, value: str, inputs: set[str]) -> bool:
    """Whether an output depends on no input of the graph but by way of a value."""
    waiting, seen = [output], {output, value}
    while waiting:
        name = waiting.pop()
        node = graph.producer(name)
        if name in inputs or (node is not None and _is_layer(graph, node, inputs)):
            return False
        if node is not None and node.op_type not in _SHAPES:
            fresh = [read for read in Graph.reads(node) if read not in seen]
            seen.update(fresh)
            waiting += fresh
    return True


def _operators(node: onnx.NodeProto) -> list[str]:
    inner = [op for graph in subgraphs(node) for each in graph.node for op in _operators(each)]
    return [node.op_type, *inner]
