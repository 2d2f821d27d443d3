"""Which parameters ``--train`` names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from zoedge.adapters import ADAPTERS
from zoedge.manifest import Parameter

from .graph import Array, Graph
from .linears import find_linears
from .request_error import RequestError
from .roles import Role, is_statistic, role, uses
from .subgraphs import flattened

KEYWORDS = ("full", *ADAPTERS, "bitfit", "norm", "head")

_QUANTIZED = frozenset({
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul",
    "GatherBlockQuantized", "MatMulBnb4", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QAttention",
    "QGemm", "QLinearAdd", "QLinearConv", "QLinearMatMul",
})  # fmt: skip


@dataclass(frozen=True)
class Table:
    """The parameters of a graph before anything is chosen.

    Attributes:
        rows: one per parameter, none trainable.
        roles: name -> its role.
        head: names of the tensors of the last linear layer.
        weights: every tensor of the source, for messages about those that are no parameters.
    """

    rows: tuple[Parameter, ...]
    roles: dict[str, Role]
    head: frozenset[str]
    weights: dict[str, Array]


@dataclass(frozen=True)
class Trained:
    """What to train: parameter names in table order, and whether branches are added."""

    names: tuple[str, ...]
    adapter: bool
    frozen: tuple[str, ...]  # asked for as part of a group, without effect on the loss


def make_table(
    graph: Graph,
    parameters: Sequence[str],
    weights: dict[str, Array],
    tied: dict[str, tuple[str, ...]],
    head: Collection[str],
) -> Table:
    """Describe the parameters of the inference graph; ``head`` holds the last linear layer's initializers."""
    flat = flattened(graph)
    modules = {linear.weight: linear.module for linear in find_linears(flat)}
    roles = {name: role(flat, name, head, modules.get(name, "")) for name in parameters}
    rows = tuple(
        Parameter(
            name=name,
            dtype=str(weights[name].dtype),
            shape=weights[name].shape,
            group=roles[name].group,
            decay=roles[name].decay,
            tied_to=tied.get(name, ()),
        )
        for name in parameters
    )
    return Table(rows, roles, frozenset(head).intersection(parameters), weights)


def choose_trained(
    graph: Graph, table: Table, train: Sequence[str], live: Collection[str], dead: Collection[str]
) -> Trained:
    """Resolve ``--train``.

    Args:
        graph: the inference graph, only read.
        table: its parameters.
        train: ``KEYWORDS`` and name patterns: fnmatch, or a part of the name.
        live: values that the loss depends on.
        dead: parameters that were found to have no effect although the loss depends on them.

    Raises:
        InputError: an entry names nothing that can be trained.
    """
    if not train:
        raise RequestError("--train is empty")
    asked: set[str] = set()
    frozen: set[str] = set()
    for entry in train:
        names = set(_named(graph, table, entry))
        useless = {name for name in names if name not in live or name in dead}
        if names and names == useless:
            raise RequestError(
                f"--train {entry} names only tensors that have no effect on the loss ({some(useless)})"
            )
        asked |= names - useless
        frozen |= useless
    order = [row.name for row in table.rows]
    return Trained(
        tuple(name for name in order if name in asked),
        any(entry in ADAPTERS for entry in train),
        tuple(name for name in order if name in frozen),
    )


def _named(graph: Graph, table: Table, entry: str) -> Iterable[str]:
    names = [row.name for row in table.rows]
    if entry in ADAPTERS:
        return []
    if entry == "full":
        _refuse_quantized(graph)
        found = names
        problem = "the model has no float32 parameters (float16 and integers can't be trained)"
    elif entry == "bitfit":
        found = [name for name in names if table.roles[name].bias]
        problem = "the model has no float32 biases"
    elif entry == "norm":
        found = [name for name in names if table.roles[name].group == "norm"]
        problem = "the model has no normalisation with float32 parameters"
    elif entry == "head":
        found = [name for name in names if name in table.head]
        problem = "the output doesn't come from a float32 linear layer"
    else:
        return _by_pattern(graph, table, entry)
    if not found:
        raise RequestError(f"--train {entry} finds nothing: {problem}")
    return found


def _by_pattern(graph: Graph, table: Table, pattern: str) -> list[str]:
    names = [row.name for row in table.rows]
    found = matching(pattern, names)
    if found:
        return found
    other = matching(pattern, table.weights)
    if not other:
        raise RequestError.misspelt(
            f"--train {pattern} is none of {', '.join(KEYWORDS)} and names no parameter",
            pattern,
            [*names, *KEYWORDS],
        )
    name = other[0]
    if name in graph.initializers and is_statistic(graph, name):
        raise RequestError(
            f"--train {pattern} names {name}, running statistics of a BatchNormalization, which aren't trained",
            meant=[read for use in uses(graph, name) for read in use.node.input[1:3]],
        )
    dtype = table.weights[name].dtype
    if dtype != np.float32:
        raise RequestError(
            f"--train {pattern} names {name}, which is {dtype}, and only float32 can be trained"
        )
    raise RequestError(f"--train {pattern} names {name}, which has no effect on the output")


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a pattern means: itself, or all that it is a part of or matches as fnmatch does."""
    names = list(names)
    if pattern in names:
        return [pattern]
    return [name for name in names if pattern in name or fnmatchcase(name, pattern)]


def quantized_op(graph: Graph) -> str | None:
    """Return an operator that computes with integers in place of floats; None in a float graph."""
    return next((node.op_type for node in graph.nodes if node.op_type in _QUANTIZED), None)


def _refuse_quantized(graph: Graph) -> None:
    op = quantized_op(graph)
    if op is not None:
        raise RequestError(
            f"--train full can't train a quantised graph (this one computes with {op}), as rounded weights "
            "don't take small steps"
        )


def some(names: Collection[str]) -> str:
    """Return the first few names for a message."""
    shown = ", ".join(sorted(names)[:5])
    return shown + (", ..." if len(names) > 5 else "")
