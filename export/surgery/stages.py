"""Where a loss graph can be cut, so that what no trainable tensor reaches is computed once for all probes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx

from .graph import Graph
from .operators import ATTENTION, CONVOLUTIONS, INTEGER_PRODUCTS, PRODUCTS, RECURRENT

# what is worth computing once; everything else between two of these is computed again where it is needed
_HEAVY = PRODUCTS | INTEGER_PRODUCTS | CONVOLUTIONS | RECURRENT | ATTENTION | {"ConvInteger", "QLinearConv"}
_SHAPES = ("Shape", "Size")  # read how large a value is, not what is in it


def crossing_values(graph: Graph, outputs: Sequence[str], changing: Collection[str]) -> list[str]:
    """Return the values to hand from the part before the first trainable tensor to the part after it.

    They depend on no tensor of ``changing``, took a matrix product or the like to compute, and are read by
    what ``outputs`` still need. Masks, shapes and embeddings are left to the later part, which computes them
    from the graph's inputs: so it stays right when those are repeated for several probes. So is what is the same
    for every row, as it depends on sizes alone (the sines of rotary embeddings): it has no rows to repeat.
    """
    known = _Known(graph, changing)
    found: dict[str, None] = {}
    seen: set[str] = set()
    waiting = list(outputs)
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        if known.is_heavy(value) and not known.is_changing(value):
            found[value] = None
        elif (node := graph.producer(value)) is not None:
            waiting += graph.reads(node)
    return sorted(found)


class _Known:
    """What every value of a graph depends on, found once, in the order of execution."""

    def __init__(self, graph: Graph, changing: Collection[str]) -> None:
        self._changing = set(changing)
        self._heavy: set[str] = set()
        rows = set(graph.inputs)  # and what is made from their values
        for node in graph.in_order():
            reads = graph.reads(node)
            if self._changing.intersection(reads):
                self._changing.update(node.output)
            if node.op_type in _SHAPES or not rows.intersection(reads):
                continue
            rows.update(node.output)
            if node.op_type in _HEAVY or self._heavy.intersection(reads):
                self._heavy.update(node.output)

    def is_changing(self, value: str) -> bool:
        return value in self._changing

    def is_heavy(self, value: str) -> bool:
        return value in self._heavy


def cut(graph: Graph, values: Sequence[str]) -> None:
    """Let values have no producer, so that they can be graph inputs under their names."""
    for value in values:
        graph.divert(value, f"{value}/before")


def elem_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the ONNX element type of each output of a model; float where inference can't tell."""
    inferred = onnx.shape_inference.infer_shapes(model)
    return {v.name: v.type.tensor_type.elem_type or onnx.TensorProto.FLOAT for v in inferred.graph.output}
