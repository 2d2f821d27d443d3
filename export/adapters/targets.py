"""Which matrices get a branch beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType

from ..surgery.graph import Graph
from ..surgery.linears import Linear, find_linears, integer_products
from ..surgery.request_error import RequestError
from .base import BranchSettings, LayerSurgery, surgery_of

# Which linear layers get a branch when neither the user nor the kind names some: fnmatch patterns as for
# ``target_modules``. Embeddings, the vocabulary head and the classifier are left out unless the user names them.
DEFAULT_TARGETS = ("*",)
_NO_NAMES: Mapping[str, str] = MappingProxyType({})


def choose_targets(
    graph: Graph,
    settings: BranchSettings,
    live: Collection[str],
    excluded: Collection[str],
    modules: Mapping[str, str] = _NO_NAMES,
) -> dict[str, list[Linear]]:
    """Return weight name -> its uses, for the matrices that get a branch.

    Of a matrix that some layers read turned, only those count that read it as the first does: the branch belongs to
    one layer, and the others see the matrix as it is.

    Args:
        graph: only read.
        settings: of the branches.
        live: values that the loss depends on; layers outside get no branch.
        excluded: weights that only a pattern of the user's brings in (embeddings, heads).
        modules: weight -> module path of its layer, where the weight's name is that of something else.

    Raises:
        InputError: the graph has no linear layer, or a pattern names none.
    """
    every = _by_weight(
        replace(linear, module=modules.get(linear.weight, linear.module))
        for linear in find_linears(graph)
        if linear.y in live
    )
    default = {weight: uses for weight, uses in every.items() if weight not in excluded}
    if settings.targets is None:
        surgery = surgery_of(settings.kind)
        for patterns in (surgery.sites if isinstance(surgery, LayerSurgery) else (), DEFAULT_TARGETS):
            chosen = {w: uses for w, uses in default.items() if _matches(uses[0], patterns)}
            if chosen:
                return chosen
        raise RequestError(_no_layer(graph, settings.label))
    known = [uses[0].module for uses in every.values()]
    for pattern in settings.targets:
        if not any(_matches(uses[0], (pattern,)) for uses in every.values()):
            known += dict.fromkeys(module.rpartition(".")[2] for module in known)
            raise RequestError.misspelt(
                f"--target-modules {pattern} names no linear layer (convolutions and embeddings get no "
                f"{settings.label} branch)",
                pattern,
                known,
                "target_modules",
            )
    return {w: uses for w, uses in every.items() if _matches(uses[0], settings.targets)}


def _no_layer(graph: Graph, label: str) -> str:
    integer = integer_products(graph)
    if integer:
        return (
            f"the graph has no linear layer for a {label} branch: what {', '.join(integer)} makes are integers, and a "
            "branch is added to floats"
        )
    return (
        f"the graph has no linear layer for a {label} branch (convolutions and embeddings get none, the head only by "
        "name)"
    )


def _by_weight(linears: Iterable[Linear]) -> dict[str, list[Linear]]:
    """Group the uses of each matrix that read it the same way, and make the modules' names differ."""
    groups: dict[str, list[Linear]] = {}
    for linear in linears:
        group = groups.setdefault(linear.weight, [])
        if not group or group[0].transposed == linear.transposed:
            group.append(linear)
    modules: dict[str, str] = {}
    for weight, uses in groups.items():
        if modules.setdefault(uses[0].module, weight) != weight:
            raise RequestError(
                f"the matrices {modules[uses[0].module]} and {weight} have the same module name "
                f"{uses[0].module}, by which branches are called"
            )
    return groups


def _matches(linear: Linear, patterns: Sequence[str]) -> bool:
    last = linear.module.rpartition(".")[2]
    return any(fnmatchcase(name, p) for p in patterns for name in (linear.module, last))
