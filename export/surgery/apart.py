"""Whether what a LoRA branch learns can be added to its matrix, or has to stay a product beside it."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from .graph import Graph
from .linears import Linear

_PASSED = ("Identity", "Cast", "Transpose")  # what a matrix may go through before a layer multiplies with it


def why_apart(graph: Graph, uses: Sequence[Linear], original: str = "") -> str:
    """Return why a branch can't be added to its matrix, to be put behind "a matrix that"; "" where it can.

    Args:
        graph: the inference graph without branches, only read.
        uses: every layer that has the branch; one or more, of one matrix.
        original: the float matrix that the layers' one was rounded from, where something else still reads that.
    """
    weight = uses[0].weight
    if original in graph.initializers:
        return f"{other_reader(graph, original, ())} reads, too"
    if any(use.quantized for use in uses):
        return f"is stored as {TensorProto.DataType.Name(graph.initializers[weight].data_type).lower()}"
    if any(use.rounded for use in uses):
        return "the graph rounds to integers"
    other = other_reader(graph, weight, uses)
    return f"{other} reads, too" if other else ""


def other_reader(graph: Graph, weight: str, uses: Sequence[Linear]) -> str:
    """Return what reads a matrix besides some layers, an operator or "the output"; "" if nothing does.

    Args:
        graph: only read.
        weight: the stored matrix.
        uses: the layers, which may read it once each.
    """
    layers = {id(use.node) for use in uses}
    waiting = [weight]
    while waiting:
        value = waiting.pop()
        if value in graph.outputs:
            return "the output"
        for node in graph.consumers(value):
            places = [index for index, read in enumerate(node.input) if read == value]
            if node.op_type in _PASSED and places == [0]:
                waiting += node.output
            elif id(node) not in layers or places != [1]:
                return str(node.op_type)
    return ""
