"""LoRA branches beside frozen matrices (Hu et al. 2021, arXiv 2106.09685): y += (alpha / rank) (x A^T) B^T."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from zoedge.adapters import LoraBranch, LoraOptions
from zoedge.manifest import Branch

from ..surgery.graph import Array, Graph
from ..surgery.linears import Linear
from .base import LayerSurgery

SEED = 0


class LoraSurgery:
    """A ``LayerSurgery``."""

    counted = "b"
    follows_activations = True
    sites: tuple[str, ...] = ()

    def describe(self, graph: Graph, first: Linear, own: LoraOptions) -> Branch:
        """Return a branch whose tensors are called as PEFT calls them, where the source has no such."""
        a, b = (graph.fresh(f"{first.module}.lora_{side}.weight") for side in "AB")
        return LoraBranch(
            module=first.module,
            weight=first.weight,
            transposed=first.transposed,
            shape=(first.width_out, first.width_in),
            a=a,
            b=b,
            rank=own.lora_rank,
            alpha=own.lora_alpha,
        ).branch

    def unaddable(self, branch: Branch) -> str:
        """Return nothing: it is a matrix itself."""
        return ""

    def shapes(self, branch: Branch) -> dict[str, tuple[int, ...]]:
        """Return A's [rank, in] and B's [out, rank]."""
        (out, width), rank = branch.shape, LoraBranch.of(branch).rank
        return {"a": (rank, width), "b": (out, rank)}

    def initial(self, branch: Branch) -> dict[str, Array]:
        """Return the factors as PEFT starts them: A uniform in +-1/sqrt(in), B zero."""
        lora, shapes = LoraBranch.of(branch), self.shapes(branch)
        seed = int.from_bytes(hashlib.blake2b(lora.a.encode(), digest_size=8).digest(), "little")
        rng = np.random.Generator(np.random.Philox(key=[SEED, seed]))
        bound = 1.0 / math.sqrt(branch.shape[1])  # kaiming-uniform with a = sqrt(5)
        a = rng.uniform(-bound, bound, shapes["a"]).astype(np.float32)
        return {lora.a: a, lora.b: np.zeros(shapes["b"], np.float32)}

    def beside(self, graph: Graph, x: str, y: str, branch: Branch) -> str:
        """Add both products."""
        return self._products(graph, x, branch, [1, 0])

    def beside_stacked(self, graph: Graph, x: str, y: str, branch: Branch) -> str:
        """Add both products, batched over the points."""
        return self._products(graph, x, branch, [0, 2, 1])

    def _products(self, graph: Graph, x: str, branch: Branch, turned: Sequence[int]) -> str:
        lora = LoraBranch.of(branch)
        narrow = graph.add("MatMul", x, graph.add("Transpose", lora.a, perm=turned))  # [..., rank]
        scaled = graph.add("Mul", narrow, graph.hold(np.float32(lora.scale), "lora_scale"))
        return graph.add("MatMul", scaled, graph.add("Transpose", lora.b, perm=turned))  # [..., out]


SURGERY: LayerSurgery = LoraSurgery()
