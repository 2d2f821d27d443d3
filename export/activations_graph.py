"""The graph that shows what flows through the matrices beside which LoRA branches lie."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from zoedge.manifest import Branch
from zoedge.names import in_graph

from .exported import Exported
from .rows_first import inputs_with_rows_first
from .surgery.graph import Graph
from .surgery.linears import Linear, find_linears


def activations_graph(exported: Exported, branches: Sequence[Branch]) -> onnx.ModelProto:
    """Return model inputs -> "MODULE:x" [..., in] and "MODULE:y" [..., out] for each branch, float32.

    Of a matrix that several layers share, the first use is shown.
    """
    graph = Graph(exported.model)
    inputs = inputs_with_rows_first(graph, exported)
    first: dict[tuple[str, bool], Linear] = {}
    for linear in find_linears(graph):
        first.setdefault((linear.weight, linear.transposed), linear)
    outputs = []
    for branch in branches:
        linear = first[branch.weight, branch.transposed]
        for side, value in (("x", linear.x), ("y", linear.y)):
            name = in_graph(f"{branch.module}:{side}")
            graph.add("Cast", value, output=name, to=TensorProto.FLOAT)
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return graph.finish(inputs, outputs)
