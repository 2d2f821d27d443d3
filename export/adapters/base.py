"""What a kind of adapter tells the export: its tensors, and the nodes that add it to a layer's output."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, Protocol

from zoedge.adapters import ADAPTERS, LORA, AdapterOptions, LoraOptions
from zoedge.manifest import Branch

from ..surgery.graph import Array, Graph
from ..surgery.linears import Linear


@dataclass(frozen=True)
class BranchSettings:
    """What all branches have in common.

    Attributes:
        own: the kind's own settings.
        targets: fnmatch patterns of the user's; None stands for the kind's ``sites``, or all.
        kind: of ``zoedge.adapters.ADAPTERS``.
    """

    own: AdapterOptions = field(default_factory=LoraOptions)
    targets: tuple[str, ...] | None = None
    kind: str = LORA

    @property
    def label(self) -> str:
        """What people call the kind."""
        return ADAPTERS[self.kind].label


class Surgery(Protocol):
    """A kind of adapter, as the ``SURGERY`` of its module.

    Attributes:
        counted: of the tensors of a branch, one that differs at every point of a step.
        follows_activations: whether a space may move it between the principal directions of activations.
        sites: patterns of the modules beside which it lies unless the user names others; () for all.
    """

    counted: str
    follows_activations: bool
    sites: tuple[str, ...]

    def describe(self, graph: Graph, first: Linear, own: Any) -> Branch:
        """Return the branch beside a matrix, its tensors under names that the graph has free.

        Args:
            graph: only read.
            first: one of the layers that have the matrix.
            own: the user's settings of the kind, of the class that ``ADAPTERS`` tells.
        """

    def unaddable(self, branch: Branch) -> str:
        """Return why what it learns can't be added to its matrix, behind "a matrix that"; "" where it can."""

    def shapes(self, branch: Branch) -> dict[str, tuple[int, ...]]:
        """Return what the kind calls each trained tensor -> its shape."""

    def initial(self, branch: Branch) -> dict[str, Array]:
        """Return name of each tensor -> float32 value with which the branch adds zeros; a function of the names."""

    def beside(self, graph: Graph, x: str, y: str, branch: Branch) -> str:
        """Add the nodes of a branch.

        Args:
            graph: gets them.
            x: float32 [..., in], what the layer reads.
            y: float32 [..., out], what the layer makes of it alone.
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
