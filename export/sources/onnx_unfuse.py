"""Takes apart fused operators that hold a linear layer and what follows it, so that it is one like any other."""

from __future__ import annotations

import onnx
from onnx import helper

from ..surgery.graph import attributes, subgraphs
from ..surgery.operators import MICROSOFT

# FusedGemm's attributes are called after the activation's own
_PARAMETERS = {"activation_alpha": "alpha", "activation_beta": "beta", "activation_gamma": "gamma"}
_GEMM = ("alpha", "beta", "transA", "transB")


def unfuse_gemm(graph: onnx.GraphProto) -> None:
    """Replace FusedGemm by Gemm and its activation, in place; onnxruntime fuses them again where it can."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for inner in subgraphs(node):
            unfuse_gemm(inner)
        fused = node.op_type == "FusedGemm" and node.domain == MICROSOFT
        nodes += _parts(node) if fused else [node]
    if len(nodes) != len(graph.node) or any(
        old is not new for old, new in zip(graph.node, nodes, strict=True)
    ):
        copies = onnx.GraphProto(node=nodes)
        del graph.node[:]
        graph.node.extend(copies.node)


def _parts(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    held = attributes(node)
    activation = held.get("activation", b"").decode()
    (output,) = node.output
    made = f"zoedge/{output}/linear" if activation else output
    own = {name: held[name] for name in _GEMM if name in held}
    gemm = helper.make_node("Gemm", node.input, [made], name=node.name, **own)
    if not activation:
        return [gemm]
    settings = {own: held[name] for name, own in _PARAMETERS.items() if name in held}
    return [
        gemm,
        helper.make_node(
            activation, [made], [output], name=f"{node.name}/activation" if node.name else "", **settings
        ),
    ]
