"""Lets a graph of texts see more tokens than it is given: some before each text, which its outputs leave out again."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from zoedge.names import POSITIONS, in_graph

from .graph import Array, Graph, dims_of
from .linears import trace_weight
from .request_error import RequestError

IDS = "input_ids"
_SAME = (
    "Reshape",
    "Cast",
    "Identity",
    "Unsqueeze",
    "Squeeze",
)  # what ids may go through before they are looked up
_END = np.iinfo(np.int64).max


def find_lookup(graph: Graph) -> tuple[onnx.NodeProto, str]:
    """Return the Gather that looks up the embeddings of token ids, and the table's name.

    Raises:
        RequestError: there is none, or more than one.
    """
    if IDS not in graph.inputs:
        raise RequestError(f"a prompt stands before a text's tokens, and the model has no input {IDS}")
    found = [
        (node, traced[0])
        for node in graph.nodes
        if node.op_type == "Gather" and _is_ids(graph, node.input[1])
        if (traced := trace_weight(graph, node.input[0])) is not None
        and len(graph.shape(traced[0]) or ()) == 2
    ]
    if len(found) != 1:
        raise RequestError(
            f"a prompt needs the one embedding that {IDS} looks up in a stored table, and the graph has {len(found)}"
        )
    return found[0]


def lengthen(graph: Graph, count: int, filler: int) -> None:
    """Put tokens before every text, in place: ids, masks, types and positions of their own.

    Label positions still count from the text's own first token; outputs with an axis for tokens lose the first ones.

    Args:
        graph: the inference graph, or a loss graph made of it.
        count: how many tokens.
        filler: their id.

    Raises:
        RequestError: an input has an axis for tokens and nothing says what it is at others.
    """
    length = _token_axis(graph)
    labelled = bool(graph.consumers(in_graph(POSITIONS)))
    before = {IDS: filler, "attention_mask": 1, "token_type_ids": 0}
    for value in list(graph.proto.input):
        dims = dims_of(value) or ()
        if value.name not in graph.inputs or len(dims) < 2 or dims[1] != length:
            continue
        if len(dims) != 2 or value.name not in (*before, "position_ids"):
            raise RequestError(
                f"a prompt has no value for the input {value.name}, which has one for each token"
            )
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if value.name == "position_ids":
            front, shift = np.arange(count, dtype=dtype), dtype.type(count)
        else:
            front, shift = np.full(count, before[value.name], dtype), None
        _put_before(graph, value.name, front, shift)
    if labelled:
        shifted = graph.replace(in_graph(POSITIONS), "zoedge/positions")
        graph.add("Add", in_graph(POSITIONS), graph.hold(np.int64(count), "tokens"), output=shifted)
        return
    for output in graph.proto.output:
        dims = dims_of(output) or ()
        if length in dims[1:]:
            whole = graph.rename(output.name, f"{output.name}/whole")
            without(graph, whole, count, dims.index(length), output.name)


def without(graph: Graph, value: str, count: int, axis: int, output: str = "") -> str:
    """Add a Slice that leaves out the first tokens, and return its output's name."""
    bounds = [graph.hold(np.array([n], np.int64), "from") for n in (count, _END, axis)]
    return graph.add("Slice", value, *bounds, output=output)


def rows_of(graph: Graph, value: str) -> str:
    """Add what computes how many rows a value has, int64 [1], and return its name."""
    return graph.add("Gather", graph.add("Shape", value), graph.hold(np.array([0], np.int64)), axis=0)


def _put_before(graph: Graph, name: str, front: Array, shift: np.generic | None) -> None:
    longer = graph.replace(name, f"zoedge/{name}")
    shape = graph.add("Concat", rows_of(graph, name), graph.hold(np.array([len(front)], np.int64)), axis=0)
    first = graph.add("Expand", graph.hold(front[None], "front"), shape)
    rest = name if shift is None else graph.add("Add", name, graph.hold(shift, "shift"))
    graph.add("Concat", first, rest, output=longer, axis=1)


def _token_axis(graph: Graph) -> str:
    dims = next(dims_of(value) or () for value in graph.proto.input if value.name == IDS)
    if len(dims) != 2 or not isinstance(dims[1], str) or not dims[1]:
        raise RequestError(
            f"a prompt makes texts longer, and {IDS} is [{', '.join(map(str, dims))}], without a name for any length"
        )
    return dims[1]


def _is_ids(graph: Graph, value: str) -> bool:
    while value != IDS:
        node = graph.producer(value)
        if node is None or node.op_type not in _SAME:
            return False
        value = node.input[0]
    return True
