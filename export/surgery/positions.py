"""Computes the vocabulary head at label positions only."""

from __future__ import annotations

from .graph import Graph
from .head import find_head


def gather_positions(graph: Graph, logits: str, positions: str) -> str:
    """Take the logits at some positions of each sequence, before the head where it can be found.

    A vocabulary-wide head is a large share of a forward pass, and a loss needs it at few positions. Where
    the head isn't a linear layer followed by element-wise nodes, the finished logits are gathered.

    Args:
        graph: changed in place.
        logits: [batch, sequence, vocabulary].
        positions: int64 input [batch, positions], indices into the sequence.

    Returns:
        Name of the logits [batch, positions, vocabulary].
    """
    indices = graph.unsqueeze(positions, -1)  # [batch, positions, 1]
    head = find_head(graph, logits)
    if head is None or head.linear.x not in head.linear.node.input or head.linear.node.op_type == "Gemm":
        return graph.add("GatherND", logits, indices, batch_dims=1)
    hidden = graph.add("GatherND", head.linear.x, indices, batch_dims=1)
    graph.set_input(head.linear.node, 0, hidden)
    return logits
