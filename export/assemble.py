"""From a source's model to the graphs and the parameter table of a bundle, all without touching data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from msgspec import structs

from zoedge.manifest import ADAPTERS_FILE, Branch, Frozen, Head, Parameter, Port
from zoedge.names import LOSS, in_graph

from .activations_graph import activations_graph
from .adapters.base import BranchSettings, GraphSurgery, LayerSurgery, surgery_of
from .adapters.branches import add_branches, initial_factors
from .adapters.targets import choose_targets
from .exported import Exported
from .loss_graph import LossGraph, build_loss_graph
from .rows_first import head_of
from .stages import StageGraphs, build_stages, uses_of
from .surgery.apart import why_apart
from .surgery.frozen import frozen_tensors
from .surgery.graph import Array, Graph
from .surgery.linears import Linear
from .surgery.overridable import make_overridable
from .surgery.request_error import RequestError
from .surgery.roles import readers
from .surgery.trainables import Table, Trained, choose_trained, make_table

_BODIES = "bodies of If, Loop or Scan"


@dataclass(frozen=True)
class Request:
    """What the user wants trained: entries of ``--train`` and the settings of branches."""

    train: tuple[str, ...]
    branches: BranchSettings = field(default_factory=BranchSettings)


@dataclass(frozen=True)
class Assembled:
    """The graphs of a bundle and what its manifest says about them.

    Attributes:
        loss: the loss graph.
        adapted: the inference graph with branches; None without branches.
        stages: the loss graph in two parts; None where that saves nothing.
        merged: the same with those branches as constants that stay apart; None without such.
        activations: model inputs to what flows into and out of each branch's matrix; None without branches.
        factors: name -> first value of each tensor of a branch.
        parameters: the parameter table.
        branches: what is trained beside frozen matrices.
        head: the linear head.
        inputs, targets, outputs: ports of the loss graph.
        frozen: parameters that were asked for as part of a group and have no effect on the loss.
        untrainable: what else the loss depends on.
        beside: matrices without a branch where branches were asked for and no layer was named.
        readers: the operators that read those.
    """

    loss: onnx.ModelProto
    adapted: onnx.ModelProto | None
    stages: StageGraphs | None
    merged: onnx.ModelProto | None
    activations: onnx.ModelProto | None
    factors: dict[str, Array]
    parameters: tuple[Parameter, ...]
    branches: tuple[Branch, ...]
    head: Head | None
    inputs: tuple[Port, ...]
    targets: tuple[Port, ...]
    outputs: tuple[Port, ...]
    frozen: tuple[str, ...]
    untrainable: tuple[Frozen, ...]
    beside: tuple[str, ...]
    readers: tuple[str, ...]


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
    choice = choose_trained(plain, table, train, live, dead)
    targets = _targets(built, exported, table, head, request.branches, live, dead) if choice.adapter else {}
    added = add_branches(built.graph, targets, request.branches, exported)
    branches = _described(exported, plain, targets, added)
    factors = initial_factors(branches, exported)
    changing = {*choice.names, *factors}
    rows = _rows(table, choice, exported, branches, factors, live.difference(dead))
    adapted = _adapted(exported, targets, request.branches)
    apart = {branch.weight: targets[branch.weight] for branch in branches if branch.apart}
    beside = _without_branch(table, choice, targets, live) if _is_everywhere(request.branches) else ()
    seen = [branch for branch in branches if surgery_of(branch.kind).follows_activations]
    if adapted is not None:
        make_overridable(adapted, changing)
    return Assembled(
        loss=_finished(built, changing),
        adapted=adapted,
        merged=_adapted(exported, apart, request.branches),
        stages=build_stages(exported, targets, branches, choice.names),
        activations=activations_graph(exported, seen) if seen else None,
        factors=factors,
        parameters=rows,
        branches=branches,
        head=_head(built.head, exported),
        inputs=built.inputs,
        targets=built.targets,
        outputs=built.outputs,
        frozen=choice.frozen,
        untrainable=frozen_tensors(plain, live, {row.name for row in rows}),
        beside=beside,
        readers=tuple(sorted(set[str]().union(*(readers(plain, name) or {_BODIES} for name in beside)))),
    )


def _is_everywhere(settings: BranchSettings) -> bool:
    """Return whether every linear layer was to get a branch."""
    surgery = surgery_of(settings.kind)
    return settings.targets is None and isinstance(surgery, LayerSurgery) and not surgery.sites


def _head_tensors(exported: Exported, plain: Graph) -> frozenset[str]:
    """Return the initializers of the layer that makes the logits, whatever their type."""
    chain = head_of(plain, exported)
    return frozenset(exported.fresh_head or (chain.tensors if chain is not None else ()))


def _targets(
    built: LossGraph,
    exported: Exported,
    table: Table,
    head: Collection[str],
    settings: BranchSettings,
    live: Collection[str],
    dead: Collection[str],
) -> dict[str, list[Linear]]:
    surgery = surgery_of(settings.kind)
    if isinstance(surgery, GraphSurgery):
        if settings.targets is not None:
            raise RequestError(f"--train {settings.kind} has no place for --target-modules", "target_modules")
        return {weight: [] for weight in surgery.places(built.graph)}
    embeddings = {row.name for row in table.rows if row.group == "embedding"}
    modules = _named_otherwise(exported)
    found = choose_targets(built.graph, settings, live, {*embeddings, *modules, *head}, modules)
    targets = {weight: uses for weight, uses in found.items() if weight not in dead}
    if not targets:
        raise RequestError(
            f"{settings.label} branches beside {', '.join(sorted(found)[:5])} have no effect on the loss",
            "target_modules",
        )
    return targets


def _without_branch(
    table: Table, choice: Trained, targets: Collection[str], live: Collection[str]
) -> tuple[str, ...]:
    """Return the matrices that neither branches nor the user's other words train."""
    if not choice.adapter:
        return ()
    matrices = [row for row in table.rows if len(row.shape) > 1 and row.decay and row.name in live]
    passed = {*targets, *choice.names, *table.head}
    return tuple(row.name for row in matrices if row.name not in passed and row.group != "embedding")


def _finished(built: LossGraph, changing: Collection[str]) -> onnx.ModelProto:
    inputs = built.declared((*built.inputs, *built.targets))
    model = built.graph.finish(inputs, built.declared(built.outputs))
    make_overridable(model, changing)
    return model


def _originals(exported: Exported) -> dict[str, str]:
    """Return integer copy -> name of the matrix in the source, for those that export rounded."""
    rounded = exported.quantization.matrices if exported.quantization is not None else ()
    return {matrix.values: matrix.name for matrix in rounded}


def _layers(exported: Exported, name: str) -> tuple[str, ...]:
    """Return the source's modules that have a matrix and aren't embeddings."""
    names = (name, *exported.tied.get(name, ()))
    return tuple(each.removesuffix(".weight") for each in names if each not in exported.lookups)


def _named_otherwise(exported: Exported) -> dict[str, str]:
    """Return matrix, as stored -> module of its layer, where the matrix has an embedding's name."""
    named = {name: layers[0] for name in exported.lookups if (layers := _layers(exported, name))}
    return named | {stored: named[name] for stored, name in _originals(exported).items() if name in named}


def _described(
    exported: Exported, plain: Graph, targets: Mapping[str, list[Linear]], branches: Sequence[Branch]
) -> tuple[Branch, ...]:
    """Return the branches with why merging keeps them apart, and which modules of the source have their matrix."""
    uses, originals = uses_of(plain, targets), _originals(exported)
    described = []
    for branch in branches:
        original = originals.get(branch.weight, "")
        layers = _layers(exported, original or branch.weight)
        never = surgery_of(branch.kind).unaddable(branch)
        apart = never or why_apart(plain, uses[branch.weight], original)
        told = structs.replace(branch, apart=apart, unmergeable=bool(never))
        described.append(structs.replace(told, also=layers[1:], of_lookup=not layers))
    return tuple(described)


def _adapted(
    exported: Exported, targets: Mapping[str, list[Linear]], settings: BranchSettings
) -> onnx.ModelProto | None:
    """Put the same branches into the inference graph, beside the uses of the same matrices; None without targets."""
    if not targets:
        return None
    graph = Graph(exported.model)
    add_branches(graph, uses_of(graph, targets), settings, exported)
    inputs = [value for value in exported.model.graph.input if value.name in graph.inputs]
    return graph.finish(inputs, list(exported.model.graph.output))


def _rows(
    table: Table,
    choice: Trained,
    exported: Exported,
    branches: tuple[Branch, ...],
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
            rows.append(Parameter(name=branch.weight, dtype=dtype, shape=array.shape))
    kinds = {name: branch.kind for branch in branches for name in branch.tensors.values()}
    for name, array in factors.items():
        row = Parameter(name=name, dtype=array.dtype.name, shape=array.shape, file=ADAPTERS_FILE)
        rows.append(structs.replace(row, trainable=True, group=kinds[name], decay=array.ndim > 1))
    return tuple(rows)


def _head(head: Head | None, exported: Exported) -> Head | None:
    """Keep a head whose tensors are parameters; say whether export made it."""
    if head is None or not {head.weight, head.bias or head.weight} <= set(exported.parameters):
        return None
    return structs.replace(head, fresh=exported.fresh_head == (head.weight, head.bias))
