"""What a file of a training run does at random, or to all rows of a batch together: undone, or refused by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import onnx
from onnx import helper

from zoedge.errors import InputError

from ..surgery.graph import Graph, attributes, subgraphs

_RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip


def to_inference_form(model: onnx.ModelProto) -> str | None:
    """Turn nodes in training mode into what they are at inference, in place.

    A BatchNormalization takes its running statistics, not those of the batch, and a Dropout drops nothing.

    Returns:
        A sentence about what was changed; None where nothing was.
    """
    changed: Counter[str] = Counter()
    _normalise(model.graph, changed)
    _keep_all(model.graph, changed, {})
    if not changed:
        return None
    nodes = " and ".join(f"{count} {op}" for op, count in sorted(changed.items()))
    return (
        f"{nodes} of the file {'is' if changed.total() == 1 else 'are'} in training mode, where a row's loss depends "
        "on the rows beside it or on chance: taken as at inference, with running statistics and without dropping"
    )


def refuse_random(graph: Graph, output: str, file: str) -> None:
    """Refuse an output that isn't a function of the inputs.

    Raises:
        InputError: it depends on a node that draws random numbers.
    """
    for node in random_nodes(graph):
        if graph.reaching([output]).intersection(node.output):
            inner = next((op for op in _operators(node) if op in _RANDOM), node.op_type)
            raise InputError(
                f"the output {output} of {file} depends on chance: {inner}"
                f"{f' ({node.name})' if node.name else ''} draws random numbers, so that equal rows get unequal "
                "losses; export the model in evaluation mode, or without that node"
            )


def random_nodes(graph: Graph) -> list[onnx.NodeProto]:
    """Return the nodes that draw random numbers, themselves or inside a subgraph."""
    return [node for node in graph.nodes if not _RANDOM.isdisjoint(_operators(node))]


def _operators(node: onnx.NodeProto) -> list[str]:
    inner = [op for graph in subgraphs(node) for each in graph.node for op in _operators(each)]
    return [node.op_type, *inner]


def _normalise(graph: onnx.GraphProto, changed: Counter[str]) -> None:
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for inner in subgraphs(node):
            _normalise(inner, changed)
        extra = [(place, name) for place, name in enumerate(node.output) if place and name]
        training = attributes(node).get("training_mode", 0) or extra
        if node.op_type != "BatchNormalization" or not training:
            continue
        changed["BatchNormalization"] += 1
        kept = [attribute for attribute in node.attribute if attribute.name != "training_mode"]
        del node.attribute[:], node.output[1:]
        node.attribute.extend(kept)
        # the statistics of the batch are what is kept of all batches; 1 and 3 are means, 2 and 4 variances
        nodes += [helper.make_node("Identity", [node.input[4 - place % 2]], [name]) for place, name in extra]
    if len(nodes) != len(graph.node):
        copied = onnx.GraphProto(node=nodes)
        del graph.node[:]
        graph.node.extend(copied.node)


def _keep_all(graph: onnx.GraphProto, changed: Counter[str], outer: Mapping[str, bool]) -> None:
    switches = {**outer, **_switches(graph)}
    for node in graph.node:
        for inner in subgraphs(node):
            _keep_all(inner, changed, switches)
        if node.op_type != "Dropout":
            continue
        switch = node.input[2] if len(node.input) > 2 else ""
        training = switches.get(switch, None if switch else False)
        if training:
            changed["Dropout"] += 1
        if training is not None:
            del node.input[1:]  # also the share to drop, which nothing reads


def _switches(graph: onnx.GraphProto) -> dict[str, bool]:
    """Return the constants that are a single truth value."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and "value" in attributes(node):
            tensors[node.output[0]] = attributes(node)["value"]
    booleans = ((name, t) for name, t in tensors.items() if t.data_type == onnx.TensorProto.BOOL)
    single = {name: t for name, t in booleans if math.prod(t.dims) == 1}  # large ones are read without data
    return {name: bool(onnx.numpy_helper.to_array(t).all()) for name, t in single.items()}
