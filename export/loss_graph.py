"""Builds the graph that tuning runs: model inputs and labels in, one loss per example out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from msgspec import structs
from onnx import TensorProto

from zoedge.errors import InputError
from zoedge.manifest import Head, Port, Text
from zoedge.names import (
    FEATURES,
    LABELS,
    LOGITS,
    LOSS,
    POSITIONS,
    PREDICT,
    PREDICTIONS,
    WEIGHT,
    in_graph,
)

from .exported import Exported
from .ports import find_value, is_tensor, port_of, value_of
from .rows_first import inputs_with_rows_first, logits_with_rows_first, to_front
from .surgery.features import find_features
from .surgery.graph import Graph
from .surgery.label_words import keep_label_words
from .surgery.loss import LOSSES, Shape
from .surgery.positions import gather_positions

_RESERVED = tuple(map(in_graph, (LOSS, WEIGHT, LOGITS, PREDICTIONS, FEATURES, LABELS, POSITIONS, PREDICT)))
TOKEN_TASKS = ("text-generation", "fill-mask")


@dataclass(frozen=True)
class LossGraph:
    """A loss graph that is still open to more surgery, and its ports.

    Attributes:
        graph: holds the values that ``outputs`` name.
        inputs: the model's inputs, and the label positions where the task has them.
        targets: the labels.
        outputs: in the order of the manifest's table.
        head: the linear layer that reads ``features``; None where there is none.
    """

    graph: Graph
    inputs: tuple[Port, ...]
    targets: tuple[Port, ...]
    outputs: tuple[Port, ...]
    head: Head | None

    def declared(self, ports: Sequence[Port]) -> list[onnx.ValueInfoProto]:
        """Return graph inputs or outputs for some of the ports, under their names inside the graph."""
        return [value_of(structs.replace(port, name=self.inside(port))) for port in ports]

    def inside(self, port: Port) -> str:
        """Return the name that a port has inside the graph."""
        own = port.name == POSITIONS or all(port is not other for other in self.inputs)
        return in_graph(port.name) if own else port.name


def build_loss_graph(exported: Exported) -> LossGraph:
    """Append the loss to an inference graph.

    Raises:
        InputError: the logits don't fit the loss, or a tensor or input has a name the loss graph needs.
    """
    graph = Graph(exported.model)
    logits = _free_names(graph, exported.logits)
    inputs = [port_of(value) for value in inputs_with_rows_first(graph, exported)]
    declared = port_of(find_value(exported.model, exported.logits))
    axis = exported.batch_axes.get(exported.logits, 0)
    logits = logits_with_rows_first(graph, logits, axis, len(declared.shape))
    shape = to_front(declared.shape, axis) if axis else declared.shape
    positions = _positions(exported, shape)
    if positions is not None:
        if POSITIONS in graph.inputs:
            raise InputError(
                f"the model has an input named {POSITIONS}, as tuning has: rename it in the file"
            )
        inputs.append(positions)
        logits = gather_positions(graph, logits, in_graph(POSITIONS), early=exported.early_rows)
        shape = (shape[0], positions.shape[1], *shape[2:])
    if _by_label_words(exported.text):
        ids = exported.text.label_word_ids if exported.text else ()
        logits = keep_label_words(graph, logits, ids)
        shape = (shape[0], len(ids))
    _check_rank(exported, shape)
    if declared.dtype != "float32":
        logits = graph.add("Cast", logits, to=TensorProto.FLOAT)
    return _with_loss(graph, exported, tuple(inputs), logits, shape)


def _with_loss(
    graph: Graph, exported: Exported, inputs: tuple[Port, ...], logits: str, shape: Shape
) -> LossGraph:
    built_in = LOSSES[exported.loss]
    batch = shape[:1]
    found = find_features(graph, logits) if len(shape) == 2 and not _by_label_words(exported.text) else None
    nodes = built_in.build(graph, logits, in_graph(LABELS))
    values = {LOSS: (nodes.loss, "float32", batch), WEIGHT: (nodes.weight, "float32", batch)}
    if nodes.predictions is None:
        values[LOGITS] = (logits, "float32", shape)
    else:
        values[PREDICTIONS] = (nodes.predictions, "int64", shape[:-1])
    if found is not None:
        values[FEATURES] = (found[1], "float32", (*batch, found[2]))
    for name, (value, _, _) in values.items():
        graph.add("Identity", value, output=in_graph(name))
    outputs = tuple(Port(name=name, dtype=dtype, shape=dims) for name, (_, dtype, dims) in values.items())
    return LossGraph(graph, inputs, (built_in.target(shape),), outputs, found[0] if found else None)


def _positions(exported: Exported, logits_shape: Shape) -> Port | None:
    if exported.task in TOKEN_TASKS:
        return Port(name=POSITIONS, dtype="int64", shape=(logits_shape[0], "positions"))
    if _by_label_words(exported.text):
        return Port(name=POSITIONS, dtype="int64", shape=(logits_shape[0], 1))
    return None


def _by_label_words(text: Text | None) -> bool:
    return text is not None and text.template is not None and bool(text.label_word_ids)


def _free_names(graph: Graph, logits: str) -> str:
    """Rename intermediate values that have a name of ours (the source was one of our graphs); return the logits'."""
    for name in _RESERVED:
        if name in graph.inputs or name in graph.initializers:
            kind = "input" if name in graph.inputs else "tensor"
            raise InputError(
                f"the model has a {kind} named {name!r}, a name that zoedge gives to what it adds: export "
                "model.onnx of a bundle, or rename it"
            )
        if graph.producer(name) is not None:
            renamed = graph.rename(name, f"model/{name}")
            logits = renamed if name == logits else logits
    return logits


def _check_rank(exported: Exported, shape: Shape) -> None:
    built_in = LOSSES[exported.loss]
    if built_in.rank not in (None, len(shape)) or not shape:
        raise InputError(
            f"the output {exported.logits} has the shape [{', '.join(map(str, shape))}] and {exported.loss} "
            f"needs {built_in.shape}: use {_fitting(exported, built_in.rank)}"
        )
    if exported.loss == "cross-entropy" and shape[-1] == 1:
        raise InputError(
            f"the output {exported.logits} has a single class, for which cross-entropy is always 0: use --loss "
            "bce-with-logits"
        )


def _fitting(exported: Exported, rank: int | None) -> str:
    """Return the other outputs whose shape fits the loss, else the losses that take any shape."""
    ports = [port_of(value) for value in exported.model.graph.output if is_tensor(value)]
    others = [p for p in ports if p.dtype.startswith("float") and len(p.shape) == rank]
    names = [port.name for port in others if port.name != exported.logits]
    return (
        f"--output-name {' or '.join(names)}"
        if names
        else "--loss bce-with-logits or mse, which take any shape"
    )
