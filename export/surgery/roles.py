"""What each tensor is for: its group, layer and weight decay, from how the graph uses it and from its name."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

import onnx

from .graph import Graph

_NORMS = {
    "LayerNormalization": (1, 2),
    "BatchNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
}
_STATISTICS = {"BatchNormalization": (3, 4)}
_BIASES = {
    "Gemm": 2,
    "Conv": 2,
    "ConvTranspose": 2,
    "SkipLayerNormalization": 4,
    "MatMulIntegerToFloat": 6,
    "MatMulNBits": 5,
}
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_PRODUCTS = ("MatMul", "Gemm", "Einsum")
_INTEGER_PRODUCTS = ("MatMulNBits", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
_OTHER_WEIGHTS = {
    "PRelu": (1,),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "Concat": None,
    "Where": (),
}
_MOVES = ("Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Slice")
_ARITHMETIC = ("Add", "Mul")  # nothing is learnt as a difference or a quotient: those are settings

_NORM_NAME = re.compile(
    r"(^|[._/])(\w*norm\w*|ln(_?\w+)?|bn\d*)[._/](weight|bias|scale|gamma|beta)$", re.IGNORECASE
)
_BIAS_NAME = re.compile(r"(^|[._/])(bias|beta|b)\w*$|bias$", re.IGNORECASE)
_EMBEDDING_NAME = re.compile(r"embed|position|(^|[._/])(wte|wpe|cls_token|mask_token)", re.IGNORECASE)
_ATTENTION_NAME = re.compile(
    r"attn|attention|(^|[._/])([qkvo]_proj|out_proj|query|key|value|[qkv]_lin|wq|wk|wv|wo)([._/]|$)"
)
_MLP_NAME = re.compile(
    r"mlp|ffn|feed_forward|intermediate|output\.dense|(^|[._/])(fc\d*|lin\d|(gate|up|down)_proj|w[123]|dense_\w+|wi|wo)([._/]|$)"
)
_LAYER = re.compile(r"(?:^|[._/])(?:layers?|h|blocks?)[._](\d+)(?:[._/]|$)")
_BUFFER_NAME = re.compile(
    r"inv_freq|(cos|sin)_cached|rotary|running_(mean|var)|num_batches|(attn|causal)_mask|position_ids"
)


class Role(NamedTuple):
    """How a tensor is listed; ``bias`` also where the group is norm or head."""

    group: str
    layer: int | None
    decay: bool
    bias: bool


class Use(NamedTuple):
    """A node that computes with a tensor, perhaps after moves like Transpose; ``value`` is what it reads."""

    node: onnx.NodeProto
    place: int  # which input
    value: str


def uses(graph: Graph, name: str) -> list[Use]:
    """Return where a tensor enters the computation."""
    found: list[Use] = []
    waiting = [name]
    while waiting:
        value = waiting.pop(0)
        for node in graph.consumers(value):
            for index, read in enumerate(node.input):
                if read != value:
                    continue
                if node.op_type in _MOVES and index == 0:
                    waiting += node.output
                else:
                    found.append(Use(node, index, value))
    return found


def is_parameter(graph: Graph, name: str) -> bool:
    """Return whether a float initializer looks like something a training run had learnt.

    Running statistics, masks, tables of rotary embeddings and the settings of operators don't.
    """
    if _BUFFER_NAME.search(name):
        return False
    return any(_learnt(graph, use) for use in uses(graph, name))


def is_statistic(graph: Graph, name: str) -> bool:
    """Return whether a tensor is a running mean or variance."""
    return any(use.place in _STATISTICS.get(use.node.op_type, ()) for use in uses(graph, name))


def role(graph: Graph, name: str, head: Collection[str] = (), module: str = "") -> Role:
    """Return the role of a tensor.

    Args:
        graph: only read.
        name: the tensor.
        head: names of the classifier's tensors.
        module: path of the layer it belongs to, where that says more than the name.
    """
    places = uses(graph, name)
    vector = sum(dim > 1 for dim in graph.shape(name) or ()) <= 1
    norm = _is_norm(graph, name, places, vector)
    bias = vector and (bool(_BIAS_NAME.search(name)) or any(_is_bias(graph, use) for use in places))
    group = _group(f"{module}.weight" if module else name, places, norm=norm, bias=bias, vector=vector)
    group = "head" if name in head and group != "embedding" else group
    return Role(group, layer_of(module or name), not (norm or vector), bias)


def layer_of(name: str) -> int | None:
    """Return the index of the repeated block a tensor belongs to, from names like layers.3. and h.3."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def _group(name: str, places: list[Use], *, norm: bool, bias: bool, vector: bool) -> str:
    ops = {use.node.op_type for use in places}
    if norm:
        return "norm"
    if any(use.node.op_type == "Gather" and use.place == 0 for use in places):
        return "embedding"
    if bias:
        return "bias"
    if ops.intersection(_CONVOLUTIONS):
        return "conv"
    if not vector and not ops.intersection(_PRODUCTS) and _EMBEDDING_NAME.search(name):
        return "embedding"
    if _ATTENTION_NAME.search(name):
        return "attention"
    return "mlp" if _MLP_NAME.search(name) else "other"


def _learnt(graph: Graph, use: Use) -> bool:
    op, index = use.node.op_type, use.place
    if op in _NORMS:
        return index in _NORMS[op] or index == _BIASES.get(op)
    if op in _CONVOLUTIONS:
        return index in (1, 2)
    if op in _OTHER_WEIGHTS:
        places = _OTHER_WEIGHTS[op]
        return places is None or index in places
    if op in _ARITHMETIC:
        return not _is_mask(graph, use)
    return op in _PRODUCTS or (op == "Gather" and index == 0)


def _is_mask(graph: Graph, use: Use) -> bool:
    """A square over the last two axes that is added or multiplied: a causal mask."""
    shape = graph.shape(use.value) or ()
    return len(shape) >= 2 and shape[-1] == shape[-2] > 1


def _is_norm(graph: Graph, name: str, places: list[Use], vector: bool) -> bool:
    if any(use.place in _NORMS.get(use.node.op_type, ()) for use in places):
        return True
    return vector and (bool(_NORM_NAME.search(name)) or any(_scales_norm(graph, use) for use in places))


def _scales_norm(graph: Graph, use: Use) -> bool:
    """weight * normalised, or bias + weight * normalised, where a norm is written out in single operators."""
    if use.node.op_type not in ("Mul", "Add") or len(use.node.input) != 2:
        return False
    other = graph.producer(use.node.input[1 - use.place])
    if use.node.op_type == "Add":
        scaled = other is not None and other.op_type == "Mul"
        return scaled and any(_is_normalised(graph, value) for value in other.input)  # type: ignore[union-attr]
    return _is_normalised(graph, use.node.input[1 - use.place])


def _is_normalised(graph: Graph, value: str) -> bool:
    """x / sqrt(...), x * (1 / sqrt(...)), or an InstanceNormalization that was reshaped."""
    node = graph.producer(value)
    while node is not None and node.op_type in ("Reshape", "Cast"):
        node = graph.producer(node.input[0])
    if node is None or node.op_type == "InstanceNormalization":
        return node is not None
    if node.op_type == "Mul":
        return any(_is_inverse_root(graph, read) for read in node.input)
    return _is_inverse_root(graph, value)


def _is_inverse_root(graph: Graph, value: str) -> bool:
    """Whether a value is a quotient by a root, or the reciprocal of one."""
    node = graph.producer(value)
    if node is None or node.op_type not in ("Div", "Reciprocal"):
        return False
    root = graph.producer(node.input[-1])
    return root is not None and root.op_type == "Sqrt"


def _is_bias(graph: Graph, use: Use) -> bool:
    if _BIASES.get(use.node.op_type) == use.place or (use.place == 2 and use.node.op_type in _NORMS):
        return True
    if use.node.op_type != "Add" or len(use.node.input) != 2:
        return False
    other = graph.producer(use.node.input[1 - use.place])
    return other is not None and other.op_type in (*_PRODUCTS, *_INTEGER_PRODUCTS, *_CONVOLUTIONS, "Mul")
