"""LoRA branches beside frozen matrices (Hu et al. 2021, arXiv 2106.09685): y += (alpha / rank) (x A^T) B^T."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType

import numpy as np
from onnx import TensorProto

from zoedge.errors import InputError
from zoedge.manifest import LoraBranch

from .graph import Array, Graph
from .linears import Linear, find_linears, integer_products
from .request_error import RequestError

# Which linear layers get a branch when the user names none: fnmatch patterns as for ``target_modules``.
# Embeddings, the vocabulary head and the classifier are left out in any case unless they are named.
DEFAULT_TARGETS = ("*",)
SEED = 0
_NO_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Lora:
    """The settings of all branches; ``targets`` None stands for ``DEFAULT_TARGETS``."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"--lora-rank is {self.rank} and must be 1 or more")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(f"--lora-alpha is {self.alpha} and must be above 0")


def choose_targets(
    graph: Graph,
    lora: Lora,
    live: Collection[str],
    excluded: Collection[str],
    modules: Mapping[str, str] = _NO_NAMES,
) -> dict[str, list[Linear]]:
    """Return weight name -> its uses, for the matrices that get a branch.

    Of a matrix that some layers read turned, only those count that read it as the first does: the branch belongs to
    one layer, and the others see the matrix as it is.

    Args:
        graph: only read.
        lora: the settings.
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
    if lora.targets is None:
        chosen = {w: uses for w, uses in default.items() if _matches(uses[0], DEFAULT_TARGETS)}
        if not chosen:
            raise RequestError(_no_layer(graph))
        return chosen
    known = [uses[0].module for uses in every.values()]
    for pattern in lora.targets:
        if not any(_matches(uses[0], (pattern,)) for uses in every.values()):
            known += dict.fromkeys(module.rpartition(".")[2] for module in known)
            raise RequestError.misspelt(
                f"--target-modules {pattern} names no linear layer (convolutions and embeddings get no LoRA branch)",
                pattern,
                known,
                "target_modules",
            )
    return {w: uses for w, uses in every.items() if _matches(uses[0], lora.targets)}


def _no_layer(graph: Graph) -> str:
    integer = integer_products(graph)
    if integer:
        return (
            f"the graph has no linear layer for a LoRA branch: what {', '.join(integer)} makes are integers, and a "
            "branch is added to floats"
        )
    return (
        "the graph has no linear layer for a LoRA branch (convolutions and embeddings get none, the head only by "
        "name)"
    )


def add_branches(graph: Graph, targets: dict[str, list[Linear]], lora: Lora) -> list[LoraBranch]:
    """Put a branch beside each use of each target; the tensors are declared as external initializers.

    A matrix that several layers share has one pair of factors, used beside each.
    """
    branches = []
    for weight, uses in targets.items():
        first = uses[0]
        a, b = (
            graph.fresh(f"{first.module}.lora_{side}.weight") for side in "AB"
        )  # the source may have such, too
        for name, shape in ((a, (lora.rank, first.width_in)), (b, (first.width_out, lora.rank))):
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            graph.declare(tensor)
        for use in uses:
            _add_branch(graph, use, a, b, lora.alpha / lora.rank)
        branches.append(
            LoraBranch(
                module=first.module,
                weight=weight,
                transposed=first.transposed,
                a=a,
                b=b,
                rank=lora.rank,
                alpha=lora.alpha,
            )
        )
    return branches


def initial_factors(branches: Sequence[LoraBranch], graph: Graph) -> dict[str, Array]:
    """Return the factors as PEFT starts them: A uniform in +-1/sqrt(in), B zero; a function of the names."""
    factors: dict[str, Array] = {}
    for branch in branches:
        rank, width = graph.initializers[branch.a].dims
        seed = int.from_bytes(hashlib.blake2b(branch.a.encode(), digest_size=8).digest(), "little")
        rng = np.random.Generator(np.random.Philox(key=[SEED, seed]))
        bound = 1.0 / math.sqrt(width)  # kaiming-uniform with a = sqrt(5)
        factors[branch.a] = rng.uniform(-bound, bound, (rank, width)).astype(np.float32)
        factors[branch.b] = np.zeros(tuple(graph.initializers[branch.b].dims), np.float32)
    return factors


def _add_branch(graph: Graph, use: Linear, a: str, b: str, scale: float) -> None:
    half = use.dtype != TensorProto.FLOAT
    x = graph.add("Cast", use.x, to=TensorProto.FLOAT) if half else use.x
    narrow = graph.add("MatMul", x, graph.add("Transpose", a, perm=[1, 0]))  # [..., rank]
    scaled = graph.add("Mul", narrow, graph.hold(np.float32(scale), "lora_scale"))
    delta = graph.add("MatMul", scaled, graph.add("Transpose", b, perm=[1, 0]))  # [..., out]
    if half:
        delta = graph.add("Cast", delta, to=use.dtype)
    base = graph.divert(use.y, f"{use.y}/base")
    graph.add("Add", base, delta, output=use.y)


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
                f"{uses[0].module}, by which LoRA branches are called"
            )
    return groups


def _matches(linear: Linear, patterns: Sequence[str]) -> bool:
    last = linear.module.rpartition(".")[2]
    return any(fnmatchcase(name, p) for p in patterns for name in (linear.module, last))
