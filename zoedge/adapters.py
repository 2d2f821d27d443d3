"""Kinds of adapters: what is trained beside a frozen matrix, and how the two sides call the modules that know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .manifest import Branch, Manifest

LORA = "lora"


class AdapterModules(NamedTuple):
    """Where a kind of adapter is known.

    Attributes:
        label: what people call it.
        export: the module whose ``SURGERY`` puts it into graphs (``export.adapters.base.Surgery``).
        runtime: the module whose ``ADAPTER`` merges and writes it (``runtime.adapters.base.Adapter``).
    """

    label: str
    export: str
    runtime: str


# a new kind is one file on each side and one line here; its name is an entry of --train
ADAPTERS: dict[str, AdapterModules] = {
    LORA: AdapterModules("LoRA", "zoedge.export.adapters.lora", "zoedge.runtime.adapters.lora"),
}


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
