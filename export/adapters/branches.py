"""Branches of any kind put beside the layers of a graph, for one point or for several at once.

Several points: their rows come one point after the other. The frozen product sees them as one batch; only the branch
tells points apart, as its tensors have a leading axis of points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from zoedge.manifest import Branch

from ..exported import Exported
from ..surgery.graph import Array, Graph
from ..surgery.linears import Linear
from .base import BranchSettings, GraphSurgery, LayerSurgery, surgery_of

POINTS = "points"  # name of the leading axis


def add_branches(
    graph: Graph,
    targets: Mapping[str, Sequence[Linear]],
    settings: BranchSettings,
    exported: Exported | None = None,
) -> list[Branch]:
    """Put a branch beside each use of each target; the tensors are declared as external initializers.

    A matrix that several layers share has one branch, used beside each.

    Args:
        graph: changed in place.
        targets: weight -> its uses; none of a kind that changes the graph at a matrix.
        settings: of the branches.
        exported: the source, which such a kind needs.
    """
    surgery = surgery_of(settings.kind)
    branches = []
    for weight, uses in targets.items():
        if isinstance(surgery, LayerSurgery):
            branch = surgery.describe(graph, uses[0], settings.own)
        elif exported is not None:
            branch = surgery.describe_at(graph, exported, weight, settings.own)
        else:
            raise ValueError(f"{settings.kind} branches need the source")
        for part, shape in surgery.shapes(branch).items():
            tensor = TensorProto(name=branch.tensors[part], data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            graph.declare(tensor)
        branches.append(branch)
        if not isinstance(surgery, LayerSurgery):
            continue
        for use in uses:
            x, y = _float(graph, use, use.x), graph.divert(use.y, f"{use.y}/base")
            _add_beside(graph, use, y, surgery.beside(graph, x, _float(graph, use, y), branch))
    if branches and not isinstance(surgery, LayerSurgery):
        surgery.put(graph, branches, stacked=False)
    return branches


def initial_factors(branches: Sequence[Branch], exported: Exported | None = None) -> dict[str, Array]:
    """Return the values with which branches add zeros, or start otherwise."""
    surgery = surgery_of(branches[0].kind) if branches else None
    if isinstance(surgery, LayerSurgery):
        return {name: value for branch in branches for name, value in surgery.initial(branch).items()}
    return surgery.start(branches, exported) if surgery is not None and exported is not None else {}


class StackedBranches:
    """Puts branches into a graph whose trained tensors are inputs: [points, ...], or [1, ...] where they don't vary."""

    def __init__(self, graph: Graph, branches: Sequence[Branch]) -> None:
        self._graph = graph
        self._branches = {branch.weight: branch for branch in branches}
        self._rows: dict[tuple[str, int], str] = {}  # (value, width) -> the value as [points, rows, width]
        self._count = ""

    def add(self, targets: Mapping[str, Sequence[Linear]]) -> list[onnx.ValueInfoProto]:
        """Add a branch beside each use of each target and return the trained tensors as inputs."""
        graph, inputs = self._graph, []
        whole: dict[str, list[Branch]] = {}
        for weight, uses in targets.items():
            branch = self._branches[weight]
            surgery = surgery_of(branch.kind)
            for part, shape in surgery.shapes(branch).items():
                axis = POINTS if part == surgery.counted else f"{POINTS}_or_1"
                name = branch.tensors[part]
                inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [axis, *shape]))
            if not self._count:
                shape_of = graph.add("Shape", branch.tensors[surgery.counted])
                self._count = graph.add("Gather", shape_of, graph.hold(np.array([0], np.int64)), axis=0)
            if not isinstance(surgery, LayerSurgery):
                whole[branch.kind] = [*whole.get(branch.kind, []), branch]
                continue
            for use in uses:
                x = self._by_point(_float(graph, use, use.x), use.width_in)
                y = graph.divert(use.y, f"{use.y}/base")
                delta = surgery.beside_stacked(graph, x, _float(graph, use, y), branch)
                _add_beside(graph, use, y, delta, stacked=True)
        for kind, branches in whole.items():
            surgery = surgery_of(kind)
            if isinstance(surgery, GraphSurgery):
                surgery.put(graph, branches, stacked=True)
        return inputs

    def _by_point(self, x: str, width: int) -> str:
        if (x, width) not in self._rows:
            rest = self._graph.hold(np.array([-1, width], np.int64), "rows")
            shape = self._graph.add("Concat", self._count, rest, axis=0)
            self._rows[x, width] = self._graph.add("Reshape", x, shape)
        return self._rows[x, width]


def _float(graph: Graph, use: Linear, value: str) -> str:
    """Return what a layer reads or makes, in float32."""
    return graph.add("Cast", value, to=TensorProto.FLOAT) if use.dtype != TensorProto.FLOAT else value


def _add_beside(graph: Graph, use: Linear, y: str, delta: str, *, stacked: bool = False) -> None:
    if use.dtype != TensorProto.FLOAT:
        delta = graph.add("Cast", delta, to=use.dtype)
    if stacked:
        delta = graph.add("Reshape", delta, graph.add("Shape", y))
    graph.add("Add", y, delta, output=use.y)
