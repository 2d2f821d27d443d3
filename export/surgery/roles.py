"""What each tensor is for: its group, layer and weight decay, from how the graph uses it and from its name."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import NamedTuple

import onnx

from zoedge.manifest import SETTING

from .graph import Graph
from .operators import (
    ATTENTION,
    CONVOLUTIONS,
    INTEGER_PRODUCTS,
    MICROSOFT,
    PRODUCTS,
    RECURRENT,
    learnt_uses,
)

_MOVES = ("Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Slice", "Flatten")
_ARITHMETIC = ("Add", "Mul")  # nothing is learnt as a difference or a quotient: those are settings
_JOINED = "Concat"  # tokens of learnt values beside those of the input
_BEFORE_BIASES = PRODUCTS | INTEGER_PRODUCTS | CONVOLUTIONS | RECURRENT

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
_BUFFER_NAME = re.compile(
    r"inv_freq|(cos|sin)_cached|rotary|running_(mean|var)|num_batches|(attn|causal)_mask|position_ids"
)


class Role(NamedTuple):
    """How a tensor is listed; ``bias`` also where the group is norm or head."""

    group: str
    decay: bool
    bias: bool


class Place(NamedTuple):
    """A node that computes with a tensor, perhaps after moves like Transpose; ``value`` is what it reads."""

    node: onnx.NodeProto
    place: int  # which input
    value: str


def uses(graph: Graph, name: str) -> list[Place]:
    """Return where a tensor enters the computation; stored tensors that are joined enter it together."""
    found: list[Place] = []
    waiting = [name]
    while waiting:
        value = waiting.pop(0)
        for node in graph.consumers(value):
            for index, read in enumerate(node.input):
                if read != value:
                    continue
                if (node.op_type in _MOVES and index == 0) or _joins_stored(graph, node):
                    waiting += node.output
                else:
                    found.append(Place(node, index, value))
    return found


def readers(graph: Graph, name: str) -> set[str]:
    """Return the operators that read a tensor, as it is or moved."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for node in graph.consumers(waiting.pop()):
            if node.op_type in _MOVES:
                waiting += node.output
            else:
                found.add(node.op_type)
    return found


def _joins_stored(graph: Graph, node: onnx.NodeProto) -> bool:
    """Tell whether a node puts several stored tensors together, like q, k and v for one product."""
    return node.op_type == _JOINED and all(_is_stored(graph, value) for value in node.input)


def _is_stored(graph: Graph, value: str) -> bool:
    while value not in graph.initializers:
        node = graph.producer(value)
        if node is None or node.op_type not in _MOVES:
            return False
        value = node.input[0]
    return True


def is_parameter(graph: Graph, name: str) -> bool:
    """Return whether a float initializer looks like something a training run had learnt.

    Running statistics, masks, tables of rotary embeddings and the settings of operators don't.
    """
    if _BUFFER_NAME.search(name) or is_frequencies(graph, name):
        return False
    shape = graph.shape(name) or ()
    single = math.prod(shape) == 1
    return math.prod(shape) > 0 and any(_learnt(graph, use, single=single) for use in uses(graph, name))


def is_frequencies(graph: Graph, name: str) -> bool:
    """Return whether a tensor is the vector of frequencies that turns positions into sines and cosines.

    Its values meet positions, which were integers, and come to nothing but sines and cosines.
    """
    if sum(dim > 1 for dim in graph.shape(name) or ()) > 1:
        return False
    waiting, seen, meets, ends = [name], {name}, False, set[str]()
    while waiting:
        value = waiting.pop()
        for node in graph.consumers(value):
            if node.op_type in ("Sin", "Cos"):
                ends.add(node.op_type)
            elif node.op_type in ("MatMul", "Mul", _JOINED, *_MOVES):
                products = node.op_type in ("MatMul", "Mul")
                meets |= products and any(_was_integer(graph, v) for v in node.input if v != value)
                waiting += [v for v in node.output if v not in seen]
                seen.update(node.output)
            elif node.op_type != "Shape":
                return False
    return meets and ends == {"Sin", "Cos"}


def _was_integer(graph: Graph, value: str) -> bool:
    node = graph.producer(value)
    while node is not None and node.op_type in _MOVES and node.op_type != "Cast":
        node = graph.producer(node.input[0])
    return node is not None and node.op_type in ("Cast", "Range")


def is_statistic(graph: Graph, name: str) -> bool:
    """Return whether a tensor is a running mean or variance."""
    return any(_kind(use) == "statistic" for use in uses(graph, name))


def is_rounded(graph: Graph, name: str) -> bool:
    """Return whether a tensor of whole numbers stands for floats: the bias of a layer of integers."""
    return any(_kind(use) == "rounding" for use in uses(graph, name))


def why_frozen(graph: Graph, name: str) -> str:
    """Return what a float tensor is that is no parameter, in a few words."""
    places = uses(graph, name)
    kinds = {_kind(use) for use in places}
    if "statistic" in kinds:
        return "running statistics"
    if "rounding" in kinds:
        return "scales and weights that the graph rounds"
    if "table" in kinds or _BUFFER_NAME.search(name) or is_frequencies(graph, name):
        return "tables and masks"
    return SETTING if math.prod(graph.shape(name) or ()) == 1 else "not used as weights"


def role(graph: Graph, name: str, head: Collection[str] = (), module: str = "") -> Role:
    """Return the role of a tensor.

    Args:
        graph: only read.
        name: the tensor.
        head: names of the classifier's tensors.
        module: path of the layer it belongs to, where that says more than the name.
    """
    places = uses(graph, name)
    shape = graph.shape(name) or ()
    kinds = {_kind(use) for use in places}
    matrix = "weight" in kinds and len(shape) > 1  # also with one output
    vector = sum(dim > 1 for dim in shape) <= 1 and not matrix
    norm = _is_norm(graph, name, places, vector)
    bias = bool(kinds & {"bias", "shift"}) and not _fills_gemm(graph, name, places)
    bias |= vector and (bool(_BIAS_NAME.search(name)) or any(_is_bias(graph, use) for use in places))
    vector |= bias
    group = _group(f"{module}.weight" if module else name, places, norm=norm, bias=bias, vector=vector)
    group = "head" if name in head and group != "embedding" else group
    return Role(group, not (norm or vector), bias)


def _group(name: str, places: list[Place], *, norm: bool, bias: bool, vector: bool) -> str:
    ops = {use.node.op_type for use in places}
    if norm:
        return "norm"
    if any(_kind(use) == "embedding" for use in places):
        return "embedding"
    if bias:
        return "bias"
    if ops & CONVOLUTIONS:
        return "conv"
    weight = any(_kind(use) == "weight" for use in places)
    if not vector and not weight and _EMBEDDING_NAME.search(name):
        return "embedding"
    if _ATTENTION_NAME.search(name) or any(_is_fused_attention(use) for use in places):
        return "attention"
    return "mlp" if _MLP_NAME.search(name) else "other"


def _kind(use: Place) -> str:
    """Return what the operator does with the tensor; "" for arithmetic."""
    if use.node.op_type == "Einsum":
        return "weight"
    return learnt_uses(use.node).get(use.place, "")


def _is_fused_attention(use: Place) -> bool:
    return use.node.op_type in ATTENTION and use.node.domain == MICROSOFT


def _fills_gemm(graph: Graph, name: str, places: list[Place]) -> bool:
    """Whether a tensor is a whole matrix that a Gemm adds, and no bias."""
    shape = graph.shape(name) or ()
    return all(use.node.op_type == "Gemm" for use in places) and sum(dim > 1 for dim in shape) > 1


def _learnt(graph: Graph, use: Place, *, single: bool) -> bool:
    """Return whether training learns what is used like this; one number is rather a setting of arithmetic."""
    kind = _kind(use)
    if kind:
        return kind not in ("statistic", "table", "rounding")
    if single:
        return _is_bias(graph, use, single=True)
    if use.node.op_type in _ARITHMETIC:
        return not _is_mask(graph, use)
    joined: bool = use.node.op_type == _JOINED
    return joined


def _is_mask(graph: Graph, use: Place) -> bool:
    """A square over the last two axes that is added or multiplied: a causal mask."""
    shape = graph.shape(use.value) or ()
    return len(shape) >= 2 and shape[-1] == shape[-2] > 1


def _is_norm(graph: Graph, name: str, places: list[Place], vector: bool) -> bool:
    if any(_kind(use) in ("scale", "shift") for use in places):
        return True
    return vector and (bool(_NORM_NAME.search(name)) or any(_scales_norm(graph, use) for use in places))


def _scales_norm(graph: Graph, use: Place) -> bool:
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


def _is_bias(graph: Graph, use: Place, *, single: bool = False) -> bool:
    """Whether a value is added to what a product or the like makes, perhaps after moves.

    One number behind a Mul is rather an epsilon, unless the Mul turns a product of integers into floats.
    """
    if use.node.op_type != "Add" or len(use.node.input) != 2:
        return False
    other = graph.producer(use.node.input[1 - use.place])
    while other is not None and other.op_type in _MOVES:
        other = graph.producer(other.input[0])
    if other is None:
        return False
    return other.op_type in _BEFORE_BIASES or (
        other.op_type == "Mul" and (not single or _rescales(graph, other))
    )


def _rescales(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a Mul turns a product of integers into floats."""
    made = [graph.producer(value) for value in node.input]
    sources = [
        graph.producer(maker.input[0]) for maker in made if maker is not None and maker.op_type == "Cast"
    ]
    return any(source is not None and source.op_type in INTEGER_PRODUCTS for source in sources)
