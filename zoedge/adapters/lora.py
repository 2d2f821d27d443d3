"""LoRA (Hu et al. 2021, arXiv 2106.09685): its settings, and what a branch of it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..manifest import Branch, Manifest
from ..settings import Setting
from .base import AdapterOptions

LORA = "lora"


class LoraOptions(AdapterOptions, frozen=True):
    """How wide branches are, and how much they count."""

    lora_rank: Annotated[int, Setting("rank of the branches", least=1)] = 8
    lora_alpha: Annotated[float, Setting("branches are scaled by alpha / rank", above=0)] = 16.0


@dataclass(frozen=True)
class LoraBranch:
    """A branch of the kind "lora", y += (alpha / rank) * (x A^T) B^T; A is [rank, in], B is [out, rank].

    ``a`` and ``b`` are the names of A and B; the rest as in ``manifest.Branch``.
    """

    module: str
    weight: str
    transposed: bool
    shape: tuple[int, int]
    a: str
    b: str
    rank: int
    alpha: float

    @classmethod
    def of(cls, branch: Branch) -> LoraBranch:
        """Return what a branch of this kind says."""
        return cls(
            module=branch.module,
            weight=branch.weight,
            transposed=branch.transposed,
            shape=branch.shape,
            a=branch.tensors["a"],
            b=branch.tensors["b"],
            rank=int(branch.settings["rank"]),
            alpha=branch.settings["alpha"],
        )

    @property
    def branch(self) -> Branch:
        """The branch as a manifest has it."""
        return Branch(
            kind=LORA,
            module=self.module,
            weight=self.weight,
            transposed=self.transposed,
            shape=self.shape,
            tensors={"a": self.a, "b": self.b},
            settings={"rank": self.rank, "alpha": self.alpha},
        )

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank


def lora_branches(manifest: Manifest) -> tuple[LoraBranch, ...]:
    """Return the branches of the kind "lora", in order."""
    return tuple(LoraBranch.of(branch) for branch in manifest.branches if branch.kind == LORA)
