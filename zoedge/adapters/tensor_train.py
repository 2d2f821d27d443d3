"""Tensor-train adapters (AdaZeta, arXiv 2406.18060; LoRETTA, arXiv 2402.11417): settings, shapes, branches.

A map W [rows, columns] is kept as cores G_i [r, k_i, r] (r = 1 at both ends): W, read row by row as a tensor
[k_1, ..., k_d], has the elements G_1[:, j_1, :] ... G_d[:, j_d, :]. The rows end inside or at the end of one core, the
split core: up to it cores are multiplied from the left, behind it from the right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from ..manifest import Branch
from ..settings import Setting
from .base import AdapterOptions

TENSOR_TRAIN = "tensor-train"

_LARGEST = 16  # what a core is to have at most of one map's side, where its prime factors allow
# (wide, narrow) -> sizes of the cores, as the papers have them
_PUBLISHED = {
    (768, 64): (8, 8, 12, 8, 8),
    (1024, 64): (4, 8, 8, 8, 8, 4),
    (4096, 64): (16, 16, 16, 4, 4, 4),
}


class TensorTrainOptions(AdapterOptions, frozen=True):
    """How small the cores are, and what lies between the two maps."""

    tt_rank: Annotated[int, Setting("rank of the cores", least=1)] = 5
    tt_bottleneck: Annotated[int, Setting("width between the two maps", least=1)] = 64
    tt_activation: Annotated[
        Literal["relu", "none"],
        Setting(
            "between the two maps: relu reads what a layer makes and stays beside it (AdaZeta); none reads what the "
            "layer reads and can be merged"
        ),
    ] = "relu"


def core_sizes(wide: int, narrow: int) -> tuple[int, ...]:
    """Return k_1, ..., k_d of a map [wide, narrow]: the published ones, or balanced factors of each side.

    A map [narrow, wide] has them in reverse. Bundles rely on what is returned.

    >>> core_sizes(384, 64)
    (6, 8, 8, 8, 8)
    """
    return _PUBLISHED.get((wide, narrow)) or (*_factors(wide), *_factors(narrow))


def _factors(size: int) -> tuple[int, ...]:
    """Return few factors of about one size, each up to ``_LARGEST`` where that is possible, in ascending order."""
    count = 1
    while _LARGEST**count < size:
        count += 1
    groups = [1] * count
    for prime in reversed(_primes(size)):
        groups[groups.index(min(groups))] *= prime
    return tuple(sorted(group for group in groups if group > 1)) or (1,)


def _primes(size: int) -> list[int]:
    """Return the prime factors in ascending order."""
    found, divisor = [], 2
    while divisor * divisor <= size:
        while size % divisor == 0:
            found.append(divisor)
            size //= divisor
        divisor += 1
    return found + [size] * (size > 1)


@dataclass(frozen=True)
class CoreMap:
    """One map as cores.

    Attributes:
        sizes: k_1, ..., k_d, whose product is rows x columns.
        rank: r between cores.
        rows: width of what it reads.
        columns: width of what it makes.
    """

    sizes: tuple[int, ...]
    rank: int
    rows: int
    columns: int

    @property
    def ranks(self) -> tuple[int, ...]:
        """1, r, ..., r, 1: between and around the cores."""
        return (1, *[self.rank] * (len(self.sizes) - 1), 1)

    @property
    def split(self) -> int:
        """Index of the core in which the rows end."""
        return next(i for i in range(len(self.sizes)) if math.prod(self.sizes[: i + 1]) >= self.rows)

    @property
    def shared(self) -> int:
        """How much of the split core belongs to the columns; 1 where the rows end with it."""
        return math.prod(self.sizes[: self.split + 1]) // self.rows

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Shapes of the cores as they are stored: [r, k, r] row by row, as the matrices that are multiplied.

        The first is [k, r]; up to the split core [r, k r]; behind it [r k, r], the last of which is [r k, 1] read as
        [r, k].
        """
        ranks, last = self.ranks, len(self.sizes) - 1
        found = []
        for i, size in enumerate(self.sizes):
            left, right = ranks[i], ranks[i + 1]
            if i == 0:
                found.append((size, right))
            elif i <= self.split or i == last:
                found.append((left, size * right))
            else:
                found.append((left * size, right))
        return tuple(found)


@dataclass(frozen=True)
class TensorTrainBranch:
    """A branch of the kind "tensor-train".

    With an activation, y += Up(relu(Down(y) + b)) + c for what the layer makes, y; without, y += Up(Down(x)) for what
    it reads.

    Attributes:
        branch: as a manifest has it.
        down, up: the maps; ``down`` to the bottleneck.
        relu: whether there is an activation, and biases.
    """

    branch: Branch
    down: CoreMap
    up: CoreMap
    relu: bool

    @classmethod
    def of(cls, branch: Branch) -> TensorTrainBranch:
        """Return what a branch of this kind says."""
        out, width = branch.shape
        rank, narrow = (int(branch.settings[name]) for name in ("rank", "bottleneck"))
        relu = bool(branch.settings["relu"])
        wide = out if relu else width
        return cls(
            branch,
            CoreMap(core_sizes(wide, narrow), rank, wide, narrow),
            CoreMap(core_sizes(out, narrow)[::-1], rank, narrow, out),
            relu,
        )

    @property
    def maps(self) -> dict[str, CoreMap]:
        """The maps by what their tensors are called."""
        return {"down": self.down, "up": self.up}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What each trained tensor is called -> its shape: "down.0", ..., and "down.bias" where there are biases."""
        found: dict[str, tuple[int, ...]] = {}
        for side, cores in self.maps.items():
            found |= {f"{side}.{i}": shape for i, shape in enumerate(cores.shapes)}
            if self.relu:
                found[f"{side}.bias"] = (cores.columns,)
        return found

    def cores(self, side: str) -> tuple[str, ...]:
        """Return the names of a map's cores in order."""
        return tuple(self.branch.tensors[f"{side}.{i}"] for i in range(len(self.maps[side].sizes)))
