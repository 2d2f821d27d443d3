"""Graphs whose inputs and logits have the batch on another axis, as tuning takes them: with the batch first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import onnx
from msgspec import structs

from .exported import Exported
from .ports import port_of, value_of
from .surgery.graph import Graph

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
    return graph.add("Transpose", logits, perm=to_front(range(rank), axis)) if axis else logits


def to_front(items: Sequence[T], axis: int) -> tuple[T, ...]:
    """Return the items with the one at ``axis`` first."""
    return (items[axis], *items[:axis], *items[axis + 1 :])
