"""The loss graph in two parts: what no trainable tensor reaches, and the rest, which takes many points at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import helper

from zoedge.manifest import Branch, Port

from .adapters.branches import StackedBranches
from .exported import Exported
from .loss_graph import LossGraph, build_loss_graph
from .surgery.graph import Graph
from .surgery.linears import Linear, find_linears
from .surgery.overridable import make_overridable
from .surgery.stages import crossing_values, cut, elem_types


@dataclass(frozen=True)
class StageGraphs:
    """Two graphs that together compute what the loss graph does.

    Attributes:
        prefix: model inputs -> ``crossing``; None where nothing is worth computing once.
        suffix: inputs, targets, ``crossing`` and LoRA factors [points, ...] -> the loss graph's outputs, for
            points x batch rows, point after point. Other trainable tensors are overridable initializers.
        crossing: names of the values that go from one to the other.
    """

    prefix: onnx.ModelProto | None
    suffix: onnx.ModelProto
    crossing: tuple[str, ...]


def build_stages(
    exported: Exported,
    targets: Mapping[str, Sequence[Linear]],
    branches: Sequence[Branch],
    dense: Collection[str],
) -> StageGraphs | None:
    """Return both parts; None where neither a part computed once nor stacked points would save anything.

    Args:
        exported: the source.
        targets: weight -> uses that have a branch.
        branches: the branches.
        dense: names of the trainable tensors besides the branches' factors.
    """
    built, factors = _with_branches(exported, targets, branches)
    outputs = [built.inside(port) for port in built.outputs]
    changing = {*dense, *(value.name for value in factors)}
    crossing = crossing_values(built.graph, outputs, changing)
    if not crossing and not branches:
        return None
    prefix = _prefix(_with_branches(exported, targets, branches)[0], crossing) if crossing else None
    types = elem_types(prefix) if prefix is not None else {}
    given = [helper.make_tensor_value_info(name, types[name], None) for name in crossing]
    cut(built.graph, crossing)
    inputs = _read(built, (*built.inputs, *built.targets), outputs)
    suffix = built.graph.finish([*inputs, *given, *factors], built.declared(built.outputs))
    make_overridable(suffix, dense)
    return StageGraphs(prefix, suffix, tuple(crossing))


def uses_of(graph: Graph, targets: Mapping[str, Sequence[Linear]]) -> dict[str, list[Linear]]:
    """Return every use in ``graph`` of the matrices of ``targets``, read as there, under the modules' names.

    A matrix without uses, at which a kind changes the whole graph, keeps none.
    """
    uses: dict[str, list[Linear]] = {weight: [] for weight, given in targets.items() if not given}
    for linear in find_linears(graph):
        first = next(iter(targets.get(linear.weight, ())), None)
        if first is not None and linear.transposed == first.transposed:
            uses.setdefault(linear.weight, []).append(replace(linear, module=first.module))
    return uses


def _with_branches(
    exported: Exported, targets: Mapping[str, Sequence[Linear]], branches: Sequence[Branch]
) -> tuple[LossGraph, list[onnx.ValueInfoProto]]:
    built = build_loss_graph(exported)
    return built, StackedBranches(built.graph, branches).add(uses_of(built.graph, targets))


def _prefix(built: LossGraph, crossing: Sequence[str]) -> onnx.ModelProto:
    inputs = _read(built, built.inputs, crossing)
    return built.graph.finish(inputs, [helper.make_empty_tensor_value_info(name) for name in crossing])


def _read(built: LossGraph, ports: Sequence[Port], outputs: Sequence[str]) -> list[onnx.ValueInfoProto]:
    """Return the declarations of those inputs that the outputs depend on."""
    needed = built.graph.reaching(outputs)
    return built.declared([port for port in ports if built.inside(port) in needed])
