"""The linear head of a classifier and the features it reads."""

from __future__ import annotations

from onnx import TensorProto

from zoedge.manifest import Head
from zoedge.names import FEATURES

from .apart import other_reader
from .graph import Graph
from .head import Chain, find_head


def find_features(graph: Graph, logits: str) -> tuple[Head, str, int] | None:
    """Find the layer that makes logits [batch, classes] = features @ weight.T + bias.

    Args:
        graph: only read.
        logits: [batch, classes]; nothing but one bias may lie between the layer and them.

    Returns:
        (head, name of the features, their width), or None where the logits come from anything else, or something
        else reads the layer's tensors.
    """
    chain = find_head(graph, logits)
    if chain is None or not _is_float32(graph, chain):
        return None
    linear = chain.linear
    added = [(node, index) for node, index in chain.after if node.op_type != "Identity"]
    biases = [node.input[1 - index] for node, index in added if node.op_type == "Add"]
    if linear.node.op_type == "Gemm":
        if any(a.name == "beta" and a.f != 1.0 for a in linear.node.attribute):
            return None
        biases += linear.node.input[2:]
    if len(biases) > 1 or len(added) > 1 or any(node.op_type != "Add" for node, _ in added):
        return None
    bias = biases[0] if biases else None
    if bias is not None and (graph.shape(bias) or ())[-1:] != (linear.width_out,):
        return None
    if other_reader(graph, linear.weight, [linear]) or len(graph.consumers(bias or "")) > 1:
        return None  # new values for the head would change more than the logits
    head = Head(weight=linear.weight, bias=bias, features=FEATURES, transposed=linear.transposed)
    return head, linear.x, linear.width_in


def _is_float32(graph: Graph, chain: Chain) -> bool:
    plain = chain.linear.node.op_type in ("MatMul", "Gemm")
    return plain and graph.initializers[chain.linear.weight].data_type == TensorProto.FLOAT
