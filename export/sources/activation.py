"""Finds the logits behind an output of probabilities, which a loss would turn into probabilities once more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..surgery.graph import Graph

Array = np.ndarray[Any, Any]

SOFTMAX, LOG_SOFTMAX, SIGMOID, LOG_SIGMOID, PAIR = (
    "Softmax",
    "LogSoftmax",
    "Sigmoid",
    "LogSigmoid",
    "[1 - p, p]",
)
_SKIPPED = ("Identity", "Dropout", "Clip", "Normalizer")  # nothing of them is left before the activation
_MOVES = ("Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
_LOG = {SOFTMAX: LOG_SOFTMAX, SIGMOID: LOG_SIGMOID}
_EXP = {log: plain for plain, log in _LOG.items()}
_TINY = 1e-3  # what is added before a logarithm
_FEW = 16


@dataclass(frozen=True, eq=False)
class Activation:
    """What makes probabilities, or their logarithms.

    Attributes:
        kind: the operator, or ``PAIR`` for a sigmoid beside its complement.
        before: the value that goes into it.
        moves: nodes between it and the output, which change the shape alone.
        second: of ``PAIR``: whether p comes second.
    """

    kind: str
    before: str
    moves: tuple[onnx.NodeProto, ...] = ()
    second: bool = True

    @property
    def pair(self) -> bool:
        """Whether the output has two classes and what goes in is one number."""
        return self.kind == PAIR


def find_activation(graph: Graph, output: str) -> Activation | None:
    """Return what an output is the probabilities of; None where the graph shows no activation at its end."""
    node = graph.producer(output)
    if node is None:
        return None
    op, value = node.op_type, node.input[0] if node.input else ""
    if op in (SOFTMAX, LOG_SOFTMAX, SIGMOID):
        return Activation(op, value)
    if op in _SKIPPED:
        return find_activation(graph, value)
    if op == "Add":
        other = _past_tiny(graph, node)
        return None if other is None else find_activation(graph, other)
    if op in _MOVES:
        found = find_activation(graph, value)
        return None if found is None else replace(found, moves=(*found.moves, node))
    if op in ("Log", "Exp"):
        return _renamed(find_activation(graph, value), _LOG if op == "Log" else _EXP)
    if op == "Neg":
        return _log_sigmoid(graph, value)
    if op == "Div":
        return _written_out(graph, node)
    return _pair(graph, node) if op == "Concat" else None


def logits_nodes(graph: Graph, found: Activation) -> tuple[list[onnx.NodeProto], str]:
    """Return nodes that give what goes into an activation the shape of the output, and the logits' name."""
    nodes: list[onnx.NodeProto] = []
    value = found.before
    for move in found.moves:
        copied = onnx.NodeProto()
        copied.CopyFrom(move)
        copied.input[0] = value
        value = copied.output[0] = graph.fresh("zoedge/logits")
        copied.name = f"{value}/node"
        nodes.append(copied)
    if not found.pair:
        return nodes, value
    zero, both = graph.fresh("zoedge/zero_logit"), graph.fresh("zoedge/logits")
    nodes.append(helper.make_node("Sub", [value, value], [zero], name=f"{zero}/node"))
    places = [zero, value] if found.second else [value, zero]
    nodes.append(helper.make_node("Concat", places, [both], name=f"{both}/node", axis=-1))
    return nodes, both


def probabilities(kind: str, logits: Array) -> Array:
    """Return the probabilities, float64, or their logarithms, of logits [..., classes]."""
    x = logits.astype(np.float64)
    if kind in (SIGMOID, LOG_SIGMOID):
        logs = -np.logaddexp(0.0, -x)
    else:
        logs = x - np.logaddexp.reduce(x, axis=-1, keepdims=True)
    return logs if kind in (LOG_SOFTMAX, LOG_SIGMOID) else np.exp(logs)


def looks_like(loss: str, outputs: Sequence[Array]) -> str | None:
    """Return in words why outputs look like probabilities and not like the logits of a loss; None if they don't."""
    if loss == "cross-entropy" and all(_sums_to_one(array) for array in outputs):
        return "its rows are positive and sum to 1"
    if loss == "bce-with-logits" and all(_is_between(array) for array in outputs):
        return "all its values lie between 0 and 1"
    return None


def _sums_to_one(array: Array) -> bool:
    return (
        array.ndim > 1
        and array.shape[-1] > 1
        and _is_between(array)
        and bool(np.allclose(array.astype(np.float64).sum(axis=-1), 1.0, atol=1e-3))
    )


def _is_between(array: Array) -> bool:
    return array.size > 0 and bool(((array >= -1e-6) & (array <= 1 + 1e-3)).all())


def _renamed(found: Activation | None, names: dict[str, str]) -> Activation | None:
    return replace(found, kind=names[found.kind]) if found is not None and found.kind in names else None


def _past_tiny(graph: Graph, node: onnx.NodeProto) -> str | None:
    """Return what a tiny constant is added to; None for other sums."""
    for value, other in (node.input, reversed(node.input)):
        added = _number(graph, other)
        if added is not None and abs(added) < _TINY:
            return str(value)
    return None


def _number(graph: Graph, value: str) -> float | None:
    """Return a constant that holds one number, or one number repeated few times."""
    shape = graph.shape(value)
    if shape is None or math.prod(shape) not in range(1, _FEW):
        return None
    held = graph.constant(value)
    return float(held.flat[0]) if held is not None and (held == held.flat[0]).all() else None


def _log_sigmoid(graph: Graph, value: str) -> Activation | None:
    """-softplus(-z)."""
    inner = graph.producer(value)
    outer = graph.producer(inner.input[0]) if inner is not None and inner.op_type == "Softplus" else None
    return Activation(LOG_SIGMOID, outer.input[0]) if outer is not None and outer.op_type == "Neg" else None


def _written_out(graph: Graph, node: onnx.NodeProto) -> Activation | None:
    """exp(z) / sum(exp(z)), or values divided by their sum that sum to 1 anyway."""
    below = graph.producer(node.input[1])
    if below is None or below.op_type != "ReduceSum" or below.input[0] != node.input[0]:
        return None
    above = graph.producer(node.input[0])
    if above is not None and above.op_type == "Exp":
        return Activation(SOFTMAX, above.input[0])
    return find_activation(graph, node.input[0])


def _pair(graph: Graph, node: onnx.NodeProto) -> Activation | None:
    """[1 - p, p] or [p, 1 - p] along the last axis, p a sigmoid."""
    if len(node.input) != 2:
        return None
    for second, (other, p) in ((True, node.input), (False, reversed(node.input))):
        found = find_activation(graph, p)
        if found is not None and found.kind == SIGMOID and _is_complement(graph, other, found):
            return replace(found, kind=PAIR, second=second)
    return None


def _is_complement(graph: Graph, value: str, p: Activation) -> bool:
    node = graph.producer(value)
    while node is not None and node.op_type in (*_SKIPPED, *_MOVES):
        node = graph.producer(node.input[0])
    if node is None or node.op_type != "Sub":
        return False
    found = find_activation(graph, node.input[1])
    return _number(graph, node.input[0]) == 1.0 and found is not None and found.before == p.before
