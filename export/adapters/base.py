"""What a kind of adapter tells the export: its tensors, and the nodes that add it to a layer's output."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Protocol

from zoedge.adapters import ADAPTERS, LORA
from zoedge.errors import InputError
from zoedge.manifest import Branch

from ..surgery.graph import Array, Graph
from ..surgery.linears import Linear


@dataclass(frozen=True)
class BranchSettings:
    """The settings of all branches; ``targets`` None stands for ``targets.DEFAULT_TARGETS``."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None
    kind: str = LORA

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"--lora-rank is {self.rank} and must be 1 or more")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(f"--lora-alpha is {self.alpha} and must be above 0")


class Surgery(Protocol):
    """A kind of adapter, as the ``SURGERY`` of its module.

    Attributes:
        counted: of the tensors of a branch, one that differs at every point of a step.
        follows_activations: whether a space may move it between the principal directions of activations.
        unaddable: why what it learns can't be added to its matrix, to be put behind "a matrix that"; "" where it can.
    """

    counted: str
    follows_activations: bool
    unaddable: str

    def describe(self, graph: Graph, first: Linear, settings: BranchSettings) -> Branch:
        """Return the branch beside a matrix, its tensors under names that the graph has free.

        Args:
            graph: only read.
            first: one of the layers that have the matrix.
            settings: the user's.
        """

    def shapes(self, branch: Branch) -> dict[str, tuple[int, ...]]:
        """Return what the kind calls each trained tensor -> its shape."""

    def initial(self, branch: Branch) -> dict[str, Array]:
        """Return name of each tensor -> float32 value with which the branch adds zeros; a function of the names."""

    def beside(self, graph: Graph, x: str, y: str, branch: Branch) -> str:
        """Add the nodes of a branch.

        Args:
            graph: gets them.
            x: float32 [..., in], what the layer reads.
            y: [..., out], what the layer makes of it alone, of the layer's own type.
            branch: whose tensors the graph has.

        Returns:
            float32 [..., out], what is added to the layer's output.
        """

    def beside_stacked(self, graph: Graph, x: str, y: str, branch: Branch) -> str:
        """Add the nodes of a branch for several points: ``beside`` with a leading axis of points everywhere.

        Args:
            graph: gets them.
            x: float32 [points, rows, in].
            y: as for ``beside``, [points x rows ..., out].
            branch: whose tensors the graph has, [points or 1, ...].

        Returns:
            float32 [points, rows, out].
        """


def surgery_of(kind: str) -> Surgery:
    """Return what a kind of adapter tells the export."""
    found: Surgery = importlib.import_module(ADAPTERS[kind].export).SURGERY
    return found
