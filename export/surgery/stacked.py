"""LoRA branches that hold several probes at once: factors [probes, ...] beside probes x batch rows.

Rows come probe after probe. The frozen product sees them as one batch; only the thin branch tells probes
apart, as a batched product over the leading axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from zoedge.manifest import LoraBranch

from .graph import Graph
from .linears import Linear

PROBES = "probes"  # name of the leading axis


class StackedBranches:
    """Puts branches into a graph whose factors are inputs: A [probes or 1, rank, in], B [probes, out, rank]."""

    def __init__(self, graph: Graph, branches: Sequence[LoraBranch]) -> None:
        self._graph = graph
        self._branches = {branch.weight: branch for branch in branches}
        self._rows: dict[tuple[str, int], str] = {}  # (value, width) -> the value as [probes, rows, width]
        self._count = ""

    def add(self, targets: Mapping[str, Sequence[Linear]]) -> list[onnx.ValueInfoProto]:
        """Add a branch beside each use of each target and return the factors as inputs."""
        inputs = []
        for weight, uses in targets.items():
            branch = self._branches[weight]
            first = uses[0]
            for name, axis, shape in (
                (branch.a, f"{PROBES}_or_1", (branch.rank, first.width_in)),
                (branch.b, PROBES, (first.width_out, branch.rank)),
            ):
                inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [axis, *shape]))
            self._count = self._count or self._graph.add(
                "Gather",
                self._graph.add("Shape", branch.b),
                self._graph.hold(np.array([0], np.int64)),
                axis=0,
            )
            for use in uses:
                self._beside(use, branch)
        return inputs

    def _beside(self, use: Linear, branch: LoraBranch) -> None:
        graph, half = self._graph, use.dtype != TensorProto.FLOAT
        x = graph.add("Cast", use.x, to=TensorProto.FLOAT) if half else use.x
        narrow = graph.add("MatMul", self._by_probe(x, use.width_in), self._flipped(branch.a))
        scaled = graph.add("Mul", narrow, graph.hold(np.float32(branch.alpha / branch.rank), "lora_scale"))
        delta = graph.add("MatMul", scaled, self._flipped(branch.b))  # [probes, rows, out]
        if half:
            delta = graph.add("Cast", delta, to=use.dtype)
        base = graph.divert(use.y, f"{use.y}/base")
        graph.add("Add", base, graph.add("Reshape", delta, graph.add("Shape", base)), output=use.y)

    def _flipped(self, factor: str) -> str:
        return self._graph.add("Transpose", factor, perm=[0, 2, 1])

    def _by_probe(self, x: str, width: int) -> str:
        if (x, width) not in self._rows:
            rest = self._graph.hold(np.array([-1, width], np.int64), "rows")
            shape = self._graph.add("Concat", self._count, rest, axis=0)
            self._rows[x, width] = self._graph.add("Reshape", x, shape)
        return self._rows[x, width]
