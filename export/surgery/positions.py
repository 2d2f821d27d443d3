"""Computes the vocabulary head, and what leads to it alone, at label positions only."""

from __future__ import annotations

import onnx

from .early_rows import Rows, take_early
from .graph import Graph
from .head import find_head
from .linears import Linear


def gather_positions(graph: Graph, logits: str, positions: str, *, early: bool = True) -> str:
    """Take the logits at some positions of each sequence, before the head where it can be found.

    A vocabulary-wide head is a large share of a forward pass, and a loss needs it at few positions. Where
    the head isn't a linear layer followed by element-wise nodes, the finished logits are gathered.

    Args:
        graph: changed in place.
        logits: [batch, sequence, vocabulary].
        positions: int64 input [batch, positions], indices into the sequence.
        early: compute what leads from the last attention to the head at those positions only, too.

    Returns:
        Name of the logits [batch, positions, vocabulary].
    """
    indices = graph.unsqueeze(positions, -1)  # [batch, positions, 1]
    head = find_head(graph, logits)
    reader = None if head is None else _reader(graph, head.linear)
    if head is None or reader is None:
        return graph.add("GatherND", logits, indices, batch_dims=1)
    x = head.linear.x
    rows = Rows(
        take=lambda value: graph.add("GatherND", value, indices, batch_dims=1),
        shape=lambda: graph.add("Shape", positions),
    )
    alone = early and graph.consumers(x) == [reader]
    graph.set_input(reader, 0, take_early(graph, x, rows) if alone else rows.take(x))
    return logits


def _reader(graph: Graph, linear: Linear) -> onnx.NodeProto | None:
    """Return the node to give other rows: the head, or what rounds its input where nothing else reads that."""
    if linear.node.op_type == "Gemm":  # its input is a matrix of rows already
        return None
    if linear.x in linear.node.input:
        return linear.node
    maker = graph.producer(linear.node.input[0])
    if maker is None or maker.op_type != "DynamicQuantizeLinear":
        return None
    readers = [node for value in maker.output for node in graph.consumers(value)]
    return maker if all(node is linear.node for node in readers) else None
