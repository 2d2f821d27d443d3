"""Finds the attention layers of a graph: where the keys and values of each are, [batch, heads, tokens, width]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from .graph import Graph, attributes
from .linears import Linear, find_linears
from .shapes import Shapes

# what lies between scores and the product that makes them: scales, masks
_OF_SCORES = frozenset(("Add", "Sub", "Mul", "Div", "Where", "Max", "Cast", "Identity"))
# what keys and values may go through before the product: copies for grouped heads, scales
_REPEATED = frozenset(("Reshape", "Expand", "Unsqueeze", "Slice", "Cast", "Identity", "Mul", "Div"))
_BY_HEAD = [0, 2, 1, 3]  # from [batch, tokens, heads, width]
_TURNED = [0, 1, 3, 2]
_BY_HEAD_TURNED = [0, 2, 3, 1]  # both at once


@dataclass(frozen=True)
class Attention:
    """One layer.

    Attributes:
        keys, values: [batch, heads, tokens, width]; keys with their positions in them.
        turned: whether keys are [batch, heads, width, tokens].
        linear: the layer that makes the values.
        heads, width: of the values.
    """

    keys: str
    values: str
    turned: bool
    linear: Linear
    heads: int
    width: int


def find_attention(graph: Graph) -> list[Attention]:
    """Return the layers that compute softmax(keys' scores) times values in plain operators, in order."""
    linears, shapes = {linear.y: linear for linear in find_linears(graph)}, Shapes(graph)
    found = (_layer(graph, shapes, node, linears) for node in graph.nodes if node.op_type == "Softmax")
    return [layer for layer in found if layer is not None]


def _layer(
    graph: Graph, shapes: Shapes, softmax: onnx.NodeProto, linears: dict[str, Linear]
) -> Attention | None:
    product = _reader(graph, softmax.output[0])
    scores = _product(graph, softmax.input[0])
    if product is None or scores is None:
        return None
    keys, values = _by_head(graph, scores.input[1]), _by_head(graph, product.input[1])
    if keys is None or values is None:
        return None
    linear, sizes = _maker(graph, values, linears), _sizes(graph, shapes, values)
    if linear is None or sizes is None:
        return None
    maker = graph.producer(keys)
    turned = maker is not None and attributes(maker).get("perm") == _BY_HEAD_TURNED
    return Attention(keys, values, turned, linear, *sizes)


def _reader(graph: Graph, weights: str) -> onnx.NodeProto | None:
    """Return the product of attention weights and values."""
    readers = graph.consumers(weights)
    while len(readers) == 1 and readers[0].op_type in ("Cast", "Identity"):
        weights = readers[0].output[0]
        readers = graph.consumers(weights)
    fits = len(readers) == 1 and readers[0].op_type == "MatMul" and readers[0].input[0] == weights
    return readers[0] if fits else None


def _product(graph: Graph, scores: str) -> onnx.NodeProto | None:
    """Return the product of queries and keys behind scales and masks."""
    waiting = [scores]
    while waiting:
        node = graph.producer(waiting.pop())
        if node is not None and node.op_type == "MatMul":
            return node
        if node is not None and node.op_type in _OF_SCORES:
            waiting += node.input
    return None


def _by_head(graph: Graph, value: str) -> str | None:
    """Return the keys or values [batch, heads, tokens, width] that a product reads, before they are repeated."""
    while True:
        node = graph.producer(value)
        if node is None:
            return None
        perm = attributes(node).get("perm") if node.op_type == "Transpose" else None
        if perm in (_BY_HEAD, _BY_HEAD_TURNED):
            return value
        if node.op_type in ("Add", "Concat", "Sub"):  # positions were turned in
            return value
        if perm != _TURNED and node.op_type not in _REPEATED:
            return None
        value = node.input[0]


def _maker(graph: Graph, values: str, linears: dict[str, Linear]) -> Linear | None:
    """Return the linear layer that values come from."""
    value = values
    while value not in linears:
        node = graph.producer(value)
        if node is None or node.op_type not in (
            "Transpose",
            "Reshape",
            "Split",
            "Add",
            "Slice",
            "Identity",
            "Cast",
        ):
            return None
        made = [each for each in node.input if graph.producer(each) is not None]
        if not made:
            return None
        value = made[0]
    return linears[value]


def _sizes(graph: Graph, shapes: Shapes, values: str) -> tuple[int, int] | None:
    """Return (heads, width), as the Reshape before the heads' Transpose tells them."""
    turn = graph.producer(values)
    dealt = graph.producer(turn.input[0]) if turn is not None else None
    if dealt is None or dealt.op_type != "Reshape":
        return None
    heads, width = _last_two(graph, dealt.input[1])
    if width < 1:
        return None
    if heads < 1:  # -1: what is left
        heads = _width(graph, shapes, dealt.input[0]) // width
    return (heads, width) if heads > 0 else None


def _width(graph: Graph, shapes: Shapes, value: str) -> int:
    """Return the length of the last axis, 0 where it isn't known; a Split gives equal parts of it."""
    node = graph.producer(value)
    if node is not None and node.op_type == "Split":
        return (shapes.width(node.input[0]) or 0) // len(node.output)
    return shapes.width(value) or 0


def _last_two(graph: Graph, shape: str) -> tuple[int, int]:
    """Return the last two entries of a shape, 0 where they aren't constants."""
    joined = graph.producer(shape)
    parts = joined.input if joined is not None and joined.op_type == "Concat" else [shape]
    known = [0, 0]
    for part in parts:
        node = graph.producer(part)
        constant = graph.constant(node.input[0] if node is not None and node.op_type == "Unsqueeze" else part)
        known += [0] if constant is None else np.ravel(constant).tolist()
    return int(known[-2]), int(known[-1])
