"""Which value of an ONNX graph the loss is computed from."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import TensorProto

from zoedge.errors import InputError, near

from ..ports import is_tensor, port_kind
from ..surgery.graph import Graph, dims_of
from ..surgery.loss import LOSSES as BUILT_IN

LOSSES = {"classification": ("cross-entropy", "bce-with-logits"), "regression": ("mse",)}
_FROM_FLOATS = ("ZipMap", "ArgMax", "TopK", "SequenceConstruct", "SplitToSequence", "Optional")
_FLOATS = (
    TensorProto.UNDEFINED,
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
)


def choose_task(task: str | None, loss: str | None) -> tuple[str, str]:
    """Return (task, loss), each from the other where it is None.

    Raises:
        InputError: both are None, one is unknown, or they don't go together.
    """
    known = [name for names in LOSSES.values() for name in names]
    if task is None and loss is None:
        raise InputError(
            f"an .onnx file doesn't say what it was trained for: give --loss {', '.join(known)} "
            f"or --task {', '.join(LOSSES)}"
        )
    if task is None:
        task = next((t for t, losses in LOSSES.items() if loss in losses), None)
        if task is None:
            raise InputError(f"--loss {loss} is not built in: use {', '.join(known)}{near(str(loss), known)}")
    if task not in LOSSES:
        raise InputError(f"an .onnx file has no task {task!r}: use {' or '.join(LOSSES)}{near(task, LOSSES)}")
    if loss is not None and loss not in LOSSES[task]:
        raise InputError(f"the task {task} has no loss {loss!r}: use {' or '.join(LOSSES[task])}")
    return task, loss or LOSSES[task][0]


def choose_output(graph: Graph, name: str | None, loss: str, file: str, say: Callable[[str], None]) -> str:
    """Return the output to use: the named one, or the only one that is a tensor of floats.

    Args:
        graph: only read.
        name: an output or another value; None chooses.
        loss: outputs whose declared shape doesn't fit it aren't proposed where others do.
        file: how messages call the graph.
        say: is told which outputs are passed over.

    Raises:
        InputError: several such outputs and no name, none at all, or no such value of that name.
    """
    outputs = {value.name: value for value in graph.proto.output}
    floats = [each for each, value in outputs.items() if _may_be_floats(value)]
    others = [each for each in outputs if each not in floats]
    proposed = [each for each in floats if _may_fit(outputs[each], loss)] or floats
    if name is None:
        if len(floats) > 1:
            raise InputError(
                f"{file} has {len(outputs)} outputs: choose one with --output-name {' or '.join(proposed)}"
            )
        if not floats:
            raise InputError(
                f"{file} has no output that is a tensor of floats ({_listed(outputs, others)}){_before(graph, others)}"
            )
        if others:
            say(
                f"the loss is computed from {floats[0]}; other outputs are no floats: {_listed(outputs, others)}"
            )
        return str(floats[0])
    if name not in outputs and graph.producer(name) is None:
        values = [value for node in graph.nodes for value in node.output]
        hint = near(name, proposed) or near(name, values)
        raise InputError(
            f"{file} has no output {name!r}: its outputs are {', '.join(proposed or outputs)}{hint}"
        )
    if name in others:
        raise InputError(
            f"the output {_listed(outputs, [name])} of {file} is no tensor of floats{_before(graph, [name])}"
        )
    return name


def _may_be_floats(value: onnx.ValueInfoProto) -> bool:
    return is_tensor(value) and value.type.tensor_type.elem_type in _FLOATS


def _may_fit(value: onnx.ValueInfoProto, loss: str) -> bool:
    dims, rank = dims_of(value), BUILT_IN[loss].rank
    return dims is None or rank is None or len(dims) == rank


def _listed(outputs: dict[str, onnx.ValueInfoProto], names: list[str]) -> str:
    return ", ".join(f"{name}, {port_kind(outputs[name])}" for name in names)


def _before(graph: Graph, outputs: list[str]) -> str:
    """Return the values of floats that such outputs are made from, in words."""
    found = list(dict.fromkeys(value for output in outputs for value in _floats_before(graph, output)))
    return f": choose what it is made from with --output-name {' or '.join(found)}" if found else ""


def _floats_before(graph: Graph, output: str) -> list[str]:
    """Return what the nodes that turn floats into something else read, from an output backwards."""
    node = graph.producer(output)
    if node is None:
        return []
    if node.op_type in _FROM_FLOATS:
        return [str(node.input[0])] if graph.producer(node.input[0]) is not None else []
    return [value for read in node.input[:1] for value in _floats_before(graph, read)]
