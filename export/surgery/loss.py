"""Losses per example, as nodes after the logits; a new one is a function and a line in ``LOSSES``.

Means over examples are taken on the host in float64, so nothing here reduces over the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zoedge.manifest import Dim, Port
from zoedge.names import LABELS, PREDICT, in_graph

from .graph import Graph

IGNORED = -100  # a label that pads, as in transformers

Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class LossNodes:
    """Names of the values a loss adds; ``predictions`` only where the logits are too large to return."""

    loss: str
    weight: str
    predictions: str | None = None


@dataclass(frozen=True)
class GraphLoss:
    """One built-in loss.

    Attributes:
        build: (graph, float32 logits, labels) -> what it adds.
        target: logits' shape -> the labels input.
        rank: how many dimensions the logits must have; None: any from 1.
        shape: the logits' shape in words, for errors.
    """

    build: Callable[[Graph, str, str], LossNodes]
    target: Callable[[Shape], Port]
    rank: int | None
    shape: str


def _cross_entropy(graph: Graph, logits: str, labels: str) -> LossNodes:
    """-log softmax(logits)[label] for logits [batch, classes], labels [batch]."""
    loss = _nll(graph, _above_label(graph, logits, labels), labels)
    return LossNodes(loss, _ones_like(graph, loss))


def _token_cross_entropy(graph: Graph, logits: str, labels: str) -> LossNodes:
    """Mean over an example's label tokens, for logits [batch, positions, vocabulary]; weight is their number.

    An example without label tokens has loss 0 and weight 0.
    """
    ignored = graph.add("Equal", labels, graph.hold(np.int64(IGNORED), "ignored"))
    zero = graph.hold(np.float32(0.0), "zero")
    safe = graph.add("Where", ignored, graph.hold(np.int64(0), "any_label"), labels)
    above = _above_label(graph, logits, safe)
    losses = graph.add("Where", ignored, zero, _nll(graph, above, safe))
    counted = graph.add("Cast", graph.add("Not", ignored), to=TensorProto.FLOAT)
    count = graph.reduce("ReduceSum", counted, [-1])
    total = graph.reduce("ReduceSum", losses, [-1])
    loss = graph.add("Div", total, graph.add("Max", count, graph.hold(np.float32(1.0), "one")))
    return LossNodes(loss, count, _predictions(graph, above))


def _mse(graph: Graph, logits: str, labels: str) -> LossNodes:
    """Mean of (output - label)^2 over everything but the batch."""
    difference = graph.add("Sub", logits, labels)
    loss = _mean(graph, graph.add("Mul", difference, difference))
    return LossNodes(loss, _ones_like(graph, loss))


def _bce_with_logits(graph: Graph, logits: str, labels: str) -> LossNodes:
    """max(x, 0) - x t + log(1 + exp(-|x|)), mean over everything but the batch: exact for large |x| too."""
    rest = graph.add("Softplus", graph.add("Neg", graph.add("Abs", logits)))
    linear = graph.add("Sub", graph.add("Relu", logits), graph.add("Mul", logits, labels))
    loss = _mean(graph, graph.add("Add", linear, rest))
    return LossNodes(loss, _ones_like(graph, loss))


def _class_of_rows(shape: Shape) -> Port:
    return Port(name=LABELS, dtype="int64", shape=shape[:-1])


def _like_logits(shape: Shape) -> Port:
    return Port(name=LABELS, dtype="float32", shape=shape)


LOSSES: dict[str, GraphLoss] = {
    "cross-entropy": GraphLoss(_cross_entropy, _class_of_rows, 2, "[batch, classes]"),
    "token-cross-entropy": GraphLoss(
        _token_cross_entropy, _class_of_rows, 3, "[batch, positions, vocabulary]"
    ),
    "mse": GraphLoss(_mse, _like_logits, None, "[batch, ...]"),
    "bce-with-logits": GraphLoss(_bce_with_logits, _like_logits, None, "[batch, ...]"),
}


def _above_label(graph: Graph, logits: str, labels: str) -> str:
    """Return logits - logits[label], whose log-softmax at the label is the log likelihood.

    Subtracting first keeps small losses exact: log(sum(exp(logits))) - logits[label] rounds to an ulp of the
    logits, which hides the differences that zeroth-order steps live on. As the last reader of the logits,
    the difference takes their memory.
    """
    picked = graph.add("GatherElements", logits, graph.unsqueeze(labels, -1), axis=-1)
    return graph.add("Sub", logits, picked)


def _nll(graph: Graph, above: str, labels: str) -> str:
    """Return -log softmax(above)[label]; onnxruntime's LogSoftmax is several times faster than ReduceLogSumExp."""
    picked = graph.add(
        "GatherElements", graph.add("LogSoftmax", above, axis=-1), graph.unsqueeze(labels, -1), axis=-1
    )
    return graph.add("Neg", graph.squeeze(picked, -1))


def _predictions(graph: Graph, above: str) -> str:
    """Return where the last axis is largest, int64, or nothing [0, 0] unless ``PREDICT`` is true.

    Only evaluations read it; with labels everywhere it took 4 % of a pass through OPT-125M in int8.
    """
    graph.declare(numpy_helper.from_array(np.array(False), in_graph(PREDICT)))
    largest, none = (graph.fresh(f"zoedge/{name}") for name in ("largest", "no_predictions"))
    empty = numpy_helper.from_array(np.zeros((0, 0), np.int64))
    branches = {
        "then_branch": helper.make_node("ArgMax", [above], [largest], axis=-1, keepdims=0),
        "else_branch": helper.make_node("Constant", [], [none], value=empty),
    }
    return graph.add(
        "If", in_graph(PREDICT), **{name: _subgraph(name, node) for name, node in branches.items()}
    )


def _subgraph(name: str, node: onnx.NodeProto) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(node.output[0], TensorProto.INT64, None)
    return helper.make_graph([node], name, [], [output])


def _mean(graph: Graph, value: str) -> str:
    return graph.reduce("ReduceMean", graph.add("Flatten", value, axis=1), [1])


def _ones_like(graph: Graph, value: str) -> str:
    one = numpy_helper.from_array(np.ones(1, np.float32))
    return graph.add("ConstantOfShape", graph.add("Shape", value), value=one)
