"""Graphs whose inputs and logits have the batch on another axis, as tuning takes them: with the batch first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import onnx
from msgspec import structs

from .exported import Exported
from .ports import find_value, port_of, value_of
from .surgery.graph import Graph, attributes
from .surgery.head import Chain, find_head

T = TypeVar("T")


def inputs_with_rows_first(graph: Graph, exported: Exported) -> list[onnx.ValueInfoProto]:
    """Let a graph take every input with the batch first, in place, and return the inputs' declarations.

    Args:
        graph: of ``exported.model``; its nodes read what they read before, from a Transpose behind the input.
        exported: tells the axes.
    """
    declared = []
    for value in exported.model.graph.input:
        if value.name not in graph.inputs:
            continue
        axis = exported.batch_axes.get(value.name, 0)
        if axis:
            port = port_of(value)
            back = [*range(1, axis + 1), 0, *range(axis + 1, len(port.shape))]
            graph.redirect(value.name, graph.add("Transpose", value.name, perm=back))
            value = value_of(structs.replace(port, shape=to_front(port.shape, axis)))
        declared.append(value)
    return declared


def logits_with_rows_first(graph: Graph, logits: str, axis: int, rank: int) -> str:
    """Return the name of the logits with the batch first."""
    found = _made_with_rows_first(graph, logits, axis, rank)
    return graph.add("Transpose", logits, perm=to_front(range(rank), axis)) if found is None else found


def head_of(graph: Graph, exported: Exported) -> Chain | None:
    """Return the layer that makes the logits of the inference graph, wherever their batch is; None without one."""
    if exported.head_output:
        return find_head(graph, exported.head_output)
    axis = exported.batch_axes.get(exported.logits, 0)
    rank = len(port_of(find_value(exported.model, exported.logits)).shape)
    logits = _made_with_rows_first(graph, exported.logits, axis, rank)
    return None if logits is None else find_head(graph, logits)


def to_front(items: Sequence[T], axis: int) -> tuple[T, ...]:
    """Return the items with the one at ``axis`` first."""
    return (items[axis], *items[:axis], *items[axis + 1 :])


def _made_with_rows_first(graph: Graph, logits: str, axis: int, rank: int) -> str | None:
    """Return the value with the batch first that the logits are, perhaps behind a Transpose; None without one."""
    if not axis:
        return logits
    node = graph.producer(logits)
    if node is None or node.op_type != "Transpose":
        return None
    perm = attributes(node).get("perm", range(rank)[::-1])
    return str(node.input[0]) if to_front(perm, axis) == tuple(range(rank)) else None
