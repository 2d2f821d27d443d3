"""From a source's model to the graphs and the parameter table of a bundle, all without touching data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx
from msgspec import structs

from zoedge.manifest import ADAPTERS_FILE, Frozen, Head, LoraBranch, Parameter, Port
from zoedge.names import LOSS, in_graph

from .activations_graph import activations_graph
from .exported import Exported
from .loss_graph import LossGraph, build_loss_graph
from .rows_first import head_of
from .stages import StageGraphs, build_stages, uses_of
from .surgery.frozen import frozen_tensors
from .surgery.graph import Array, Graph
from .surgery.linears import Linear
from .surgery.lora import Lora, add_branches, choose_targets, initial_factors
from .surgery.overridable import make_overridable
from .surgery.request_error import RequestError
from .surgery.roles import layer_of
from .surgery.trainables import Table, Trained, choose, make_table


@dataclass(frozen=True)
class Request:
    """What the user wants trained: entries of ``--train`` and the settings of LoRA branches."""

    train: tuple[str, ...]
    lora: Lora = field(default_factory=Lora)


@dataclass(frozen=True)
class Assembled:
    """The graphs of a bundle and what its manifest says about them.

    Attributes:
        loss: the loss graph.
        adapted: the inference graph with LoRA branches; None without branches.
        stages: the loss graph in two parts; None where that saves nothing.
        merged: the same with the branches as constants; None unless the matrices beside them are rounded.
        activations: model inputs to what flows into and out of each branch's matrix; None without branches.
        factors: name -> first value of each LoRA tensor.
        parameters: the parameter table.
        lora: the branches.
        head: the linear head.
        inputs, targets, outputs: ports of the loss graph.
        frozen: parameters that were asked for as part of a group and have no effect on the loss.
        untrainable: what else the loss depends on.
        beside: matrices without a LoRA branch where branches were asked for and no layer was named.
    """

    loss: onnx.ModelProto
    adapted: onnx.ModelProto | None
    stages: StageGraphs | None
    merged: onnx.ModelProto | None
    activations: onnx.ModelProto | None
    factors: dict[str, Array]
    parameters: tuple[Parameter, ...]
    lora: tuple[LoraBranch, ...]
    head: Head | None
    inputs: tuple[Port, ...]
    targets: tuple[Port, ...]
    outputs: tuple[Port, ...]
    frozen: tuple[str, ...]
    untrainable: tuple[Frozen, ...]
    beside: tuple[str, ...]


def assemble(exported: Exported, request: Request, dead: Collection[str] = ()) -> Assembled:
    """Build the graphs.

    Args:
        exported: the source.
        request: what to train.
        dead: tensors that were found to have no effect, which are left out.

    Raises:
        InputError: the request or the loss doesn't fit the model.
    """
    plain = Graph(exported.model)
    built = build_loss_graph(exported)
    live = built.graph.reaching([in_graph(LOSS)])
    head = _head_tensors(exported, plain)
    table = make_table(plain, exported.parameters, exported.weights, exported.tied, head)
    train = (*request.train, *(exported.fresh_head or ()))  # a head of zeros would pass nothing on
    choice = choose(plain, table, train, live, dead)
    targets = _targets(built, table, head, request.lora, live, dead) if choice.lora else {}
    branches = tuple(add_branches(built.graph, targets, request.lora))
    factors = initial_factors(branches, built.graph)
    changing = {*choice.names, *factors}
    rows = _rows(table, choice, exported, branches, factors, live.difference(dead))
    adapted = _adapted(exported, targets, request.lora) if branches else None
    merged = None
    if adapted is not None:
        merged = _copy(adapted) if exported.quantization is not None else None
        make_overridable(adapted, changing)
    return Assembled(
        loss=_finished(built, changing),
        adapted=adapted,
        merged=merged,
        stages=build_stages(exported, targets, branches, choice.names),
        activations=activations_graph(exported, branches) if branches else None,
        factors=factors,
        parameters=rows,
        lora=branches,
        head=_head(built.head, exported),
        inputs=built.inputs,
        targets=built.targets,
        outputs=built.outputs,
        frozen=choice.frozen,
        untrainable=frozen_tensors(plain, live, {row.name for row in rows}),
        beside=_without_branch(table, choice, targets, live) if request.lora.targets is None else (),
    )


def _head_tensors(exported: Exported, plain: Graph) -> frozenset[str]:
    """Return the initializers of the layer that makes the logits, whatever their type."""
    chain = head_of(plain, exported)
    return frozenset(exported.fresh_head or (chain.tensors if chain is not None else ()))


def _targets(
    built: LossGraph,
    table: Table,
    head: Collection[str],
    lora: Lora,
    live: Collection[str],
    dead: Collection[str],
) -> dict[str, list[Linear]]:
    embeddings = {row.name for row in table.rows if row.group == "embedding"}
    found = choose_targets(built.graph, lora, live, embeddings.union(head))
    targets = {weight: uses for weight, uses in found.items() if weight not in dead}
    if not targets:
        raise RequestError(
            f"LoRA branches beside {', '.join(sorted(found)[:5])} have no effect on the loss",
            "target_modules",
        )
    return targets


def _without_branch(
    table: Table, choice: Trained, targets: Collection[str], live: Collection[str]
) -> tuple[str, ...]:
    """Return the matrices that neither branches nor the user's other words train."""
    if not choice.lora:
        return ()
    matrices = [row for row in table.rows if len(row.shape) > 1 and row.decay and row.name in live]
    passed = {*targets, *choice.names, *table.head}
    return tuple(row.name for row in matrices if row.name not in passed and row.group != "embedding")


def _finished(built: LossGraph, changing: Collection[str]) -> onnx.ModelProto:
    inputs = built.declared((*built.inputs, *built.targets))
    model = built.graph.finish(inputs, built.declared(built.outputs))
    make_overridable(model, changing)
    return model


def _adapted(exported: Exported, targets: Mapping[str, list[Linear]], lora: Lora) -> onnx.ModelProto:
    """Put the same branches into the inference graph, beside every use of the same matrices."""
    graph = Graph(exported.model)
    add_branches(graph, uses_of(graph, targets), lora)
    inputs = [value for value in exported.model.graph.input if value.name in graph.inputs]
    return graph.finish(inputs, list(exported.model.graph.output))


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _rows(
    table: Table,
    choice: Trained,
    exported: Exported,
    branches: tuple[LoraBranch, ...],
    factors: Mapping[str, Array],
    live: Collection[str],
) -> tuple[Parameter, ...]:
    """Return the table with what is trainable, the quantised matrices beside branches, and the branches."""
    rows = [
        structs.replace(row, trainable=row.name in choice.names, live=row.name in live) for row in table.rows
    ]
    listed = {row.name for row in rows}
    halves = {t.name for t in exported.model.graph.initializer if t.data_type == onnx.TensorProto.BFLOAT16}
    for branch in branches:
        if branch.weight not in listed and branch.weight in exported.weights:
            array = exported.weights[branch.weight]
            dtype = "bfloat16" if branch.weight in halves else array.dtype.name
            row = Parameter(name=branch.weight, dtype=dtype, shape=array.shape)
            rows.append(structs.replace(row, layer=layer_of(branch.module)))
    for name, array in factors.items():
        row = Parameter(
            name=name, dtype=array.dtype.name, shape=array.shape, file=ADAPTERS_FILE, group="lora"
        )
        rows.append(structs.replace(row, trainable=True, layer=layer_of(name)))
    return tuple(rows)


def _head(head: Head | None, exported: Exported) -> Head | None:
    """Keep a head whose tensors are parameters; say whether export made it."""
    if head is None or not {head.weight, head.bias or head.weight} <= set(exported.parameters):
        return None
    return structs.replace(head, fresh=exported.fresh_head == (head.weight, head.bias))
