"""Computes only those rows of the last layer that something reads: the choice of rows moves up the graph.

A loss needs the head at few positions, and whatever lies between the last attention and the head treats every
position alone: projections, feed-forward layers, norms and residual sums are computed for the chosen rows only.
(onnxruntime's own training did the same under the name of upstream Gather.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from .graph import Graph
from .row_wise import RowWise

_SEQUENCE, _FLAT = 3, 2  # axes of [batch, sequence, width] and of [batch x sequence, width]


@dataclass(frozen=True)
class Rows:
    """The rows that are wanted.

    Attributes:
        take: adds a node that takes them from a value [batch, sequence, width], and returns its output
            [batch, k, width].
        shape: adds what computes [batch, k], and returns it.
    """

    take: Callable[[str], str]
    shape: Callable[[], str]


def take_early(graph: Graph, value: str, rows: Rows) -> str:
    """Return the wanted rows of a value, which are computed from as few as possible.

    Args:
        graph: changed in place.
        value: [batch, sequence, width]; nothing that is kept reads it any more.
        rows: which.
    """
    row_wise = RowWise(graph)
    if row_wise.shapes.rank(value) != _SEQUENCE:
        return rows.take(value)
    moved, stops = _plan(graph, value, row_wise)
    if not moved:
        return rows.take(value)
    taken = {stop: rows.take(stop) for stop in stops}
    for node, held in moved:
        for index in held:
            if node.input[index] in taken:
                graph.set_input(node, index, taken[node.input[index]])
        if node.op_type == "Reshape":
            _reshape(graph, node, rows, row_wise)
    return value


Moved = list[tuple[onnx.NodeProto, list[int]]]


def _plan(graph: Graph, value: str, row_wise: RowWise) -> tuple[Moved, list[str]]:
    """Return the nodes that will see the wanted rows only, and the values to take them from."""
    barred: set[int] = set()
    order = list(graph.in_order())
    while True:
        moved, stops = _walk(graph, order, value, row_wise, barred)
        wrong = {stop for stop in stops if not _can_be_taken(graph, stop, row_wise)}
        if not wrong:
            return moved, stops
        barred |= {id(node) for node, held in moved if wrong & {node.input[i] for i in held}}


def _walk(
    graph: Graph, order: list[onnx.NodeProto], value: str, row_wise: RowWise, barred: set[int]
) -> tuple[Moved, list[str]]:
    wanted, moved = {value: None}, list[tuple[onnx.NodeProto, list[int]]]()
    inside: set[int] = set()
    for node in reversed(order):  # all readers of a value come before the node that makes it
        if id(node) in barred or not any(output in wanted for output in node.output):
            continue
        read = [n for out in node.output if out != value for n in graph.consumers(out)]
        held = row_wise.inputs(node) if all(id(n) in inside for n in read) else None
        if held is None:
            continue
        inside.add(id(node))
        moved.append((node, held))
        wanted |= dict.fromkeys(node.input[i] for i in held)
    made = {output for node, _ in moved for output in node.output}
    return moved, [name for name in wanted if name not in made]


def _can_be_taken(graph: Graph, value: str, row_wise: RowWise) -> bool:
    """Whether rows can be taken from a value: floats with an axis for the sequence."""
    maker = graph.producer(value)
    rounded = maker is not None and maker.op_type in ("DynamicQuantizeLinear", "QuantizeLinear")
    return not rounded and row_wise.shapes.rank(value) == _SEQUENCE


def _reshape(graph: Graph, node: onnx.NodeProto, rows: Rows, row_wise: RowWise) -> None:
    """Let a Reshape make the shape that the wanted rows have."""
    width = row_wise.shapes.width(node.output[0])
    last = graph.hold(np.array([width], np.int64), "width")
    flat = row_wise.shapes.rank(node.output[0]) == _FLAT
    lead = graph.hold(np.array([-1], np.int64), "rows") if flat else rows.shape()
    graph.set_input(node, 1, graph.add("Concat", lead, last, axis=0))
