"""Which value of an ONNX graph the loss is computed from."""

from __future__ import annotations

from collections.abc import Callable

from zoedge.errors import InputError, near

from ..surgery.graph import Graph

LOSSES = {"classification": ("cross-entropy", "bce-with-logits"), "regression": ("mse",)}
_ACTIVATIONS = {"cross-entropy": "Softmax", "bce-with-logits": "Sigmoid"}  # that the loss brings along itself


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


def choose_output(graph: Graph, name: str | None, file: str) -> str:
    """Return the output to use: the named one, or the only one.

    Raises:
        InputError: several outputs and no name, or no value of that name.
    """
    outputs = [value.name for value in graph.proto.output]
    if name is None:
        if len(outputs) > 1:
            raise InputError(
                f"{file} has {len(outputs)} outputs: choose one with --output-name {', '.join(outputs)}"
            )
        return str(outputs[0])
    if name not in outputs and graph.producer(name) is None:
        values = [value for node in graph.nodes for value in node.output]
        hint = near(name, outputs) or near(name, values)
        raise InputError(f"{file} has no output {name!r}: its outputs are {', '.join(outputs)}{hint}")
    return name


def before_activation(graph: Graph, output: str, loss: str, say: Callable[[str], None]) -> str:
    """Return the logits where an output is their softmax or sigmoid, which the loss computes itself."""
    node = graph.producer(output)
    if node is None or node.op_type != _ACTIVATIONS.get(loss):
        return output
    say(f"{output} is a {node.op_type}: the loss {loss} is computed from its input, {node.input[0]}")
    return str(node.input[0])
