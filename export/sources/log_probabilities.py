"""Logits made of probabilities: their logarithms, whose softmax (or sigmoid) is what the output holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..surgery.graph import Graph
from .likeness import ROUNDED, Likeness


class LogNodes:
    """Nodes behind an output, whose names are new in a graph.

    Args:
        graph: makes the names; nothing is added to it.
        output: float16, float32 or float64.
        seen: what it holds.
        log: whether it holds the logarithms of that.
    """

    def __init__(self, graph: Graph, output: str, seen: Likeness, *, log: bool) -> None:
        self._graph, self._seen = graph, seen
        self.nodes: list[onnx.NodeProto] = []
        value = self._add("Cast", output, to=TensorProto.FLOAT)
        value = self._add("Exp", value) if log else value
        self._share = value if seen.total == 1.0 else self._add("Div", value, self._number(seen.total))

    def of_classes(self) -> str:
        """Return log(p), float32 [batch, ..., classes]: softmax gives p divided by the sum of its row."""
        return self._log(self._share, self._seen.least)

    def of_each(self) -> str:
        """Return log(p) - log(1 - p), float32 and shaped like the output: sigmoid gives p."""
        return self._add("Sub", self._log(self._share, self._seen.least), self._log(self._rest(), ROUNDED))

    def of_second(self, axis: int) -> str:
        """Return [log(1 - p), log(p)] along an axis of size 1: two classes made of one."""
        logs = [self._log(self._rest(), ROUNDED), self._log(self._share, self._seen.least)]
        return self._add("Concat", *logs, axis=axis)

    def _rest(self) -> str:
        return self._add("Sub", self._number(1.0), self._share)

    def _log(self, value: str, least: float) -> str:
        return self._add("Log", self._add("Max", value, self._number(least)))

    def _number(self, number: float) -> str:
        return self._add("Constant", value=numpy_helper.from_array(np.array(number, np.float32)))

    def _add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = self._graph.fresh(f"zoedge/probabilities/{op}")
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{name}/node", **attributes))
        return name
