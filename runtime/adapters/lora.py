"""LoRA (arXiv 2106.09685) on the device: W + (alpha / rank) B A, and PEFT's adapter of the same name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoedge.adapters import LoraBranch
from zoedge.manifest import Branch

from .base import Adapter, Tensors


class Lora(Adapter):
    """An ``Adapter``."""

    def added(
        self, branch: Branch, factors: Tensors, base: NDArray[np.float64], rows: slice, columns: slice
    ) -> NDArray[np.float64]:
        """Return W + (alpha / rank) B A."""
        lora = LoraBranch.of(branch)
        a = factors[lora.a][:, columns].astype(np.float64)
        b = factors[lora.b][rows].astype(np.float64) * lora.scale
        return base + b @ a

    def times(
        self, branch: Branch, factors: Tensors, factor: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float32]]:
        """Return B with its rows multiplied."""
        b = LoraBranch.of(branch).b
        return {b: (factors[b].astype(np.float64) * factor[:, None]).astype(np.float32)}

    def peft_tensors(self, branch: Branch, factors: Tensors) -> Tensors:
        """Return both factors."""
        lora = LoraBranch.of(branch)
        return {"lora_A.weight": factors[lora.a], "lora_B.weight": factors[lora.b]}

    def peft_config(self, branches: Sequence[Branch]) -> dict[str, Any] | None:
        """Return the usual rank and alpha, and where they are others."""
        found = [LoraBranch.of(branch) for branch in branches]
        rank = Counter(b.rank for b in found).most_common(1)[0][0]
        alpha = Counter(b.alpha for b in found).most_common(1)[0][0]
        return {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": _plain(alpha),
            "rank_pattern": {b.module: b.rank for b in found if b.rank != rank},
            "alpha_pattern": {b.module: _plain(b.alpha) for b in found if b.alpha != alpha},
            "lora_dropout": 0.0,
        }


def _plain(alpha: float) -> float | int:
    return int(alpha) if alpha == int(alpha) else alpha


ADAPTER: Adapter = Lora()
