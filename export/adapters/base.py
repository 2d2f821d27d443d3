"""What a kind of adapter tells the export: its tensors, and the nodes that add it to a layer's output."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from zoedge.adapters import ADAPTERS, LORA, AdapterOptions, LoraOptions
from zoedge.manifest import Branch

from ..surgery.graph import Array, Graph
from ..surgery.linears import Linear

if TYPE_CHECKING:
    from ..exported import Exported


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
    """A kind of adapter, as the ``SURGERY`` of its module: a ``LayerSurgery`` or a ``GraphSurgery``.

    Attributes:
        counted: of the tensors of a branch, one that differs at every point of a step.
        follows_activations: whether a space may move it between the principal directions of activations.
    """

    counted: str
    follows_activations: bool

    def unaddable(self, branch: Branch) -> str:
        """Return why what it learns can't be added to its matrix, behind "a matrix that"; "" where it can."""

    def shapes(self, branch: Branch) -> dict[str, tuple[int, ...]]:
        """Return what the kind calls each trained tensor -> its shape."""


@runtime_checkable
class LayerSurgery(Surgery, Protocol):
    """A kind that lies beside linear layers.

    Attributes:
        sites: patterns of the modules beside which it lies unless the user names others; () for all.
    """

    sites: tuple[str, ...]

    def describe(self, graph: Graph, first: Linear, own: Any) -> Branch:
        """Return the branch beside a matrix, its tensors under names that the graph has free.

        Args:
            graph: only read.
            first: one of the layers that have the matrix.
            own: the user's settings of the kind, of the class that ``ADAPTERS`` tells.
        """

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


@runtime_checkable
class GraphSurgery(Surgery, Protocol):
    """A kind that changes what a graph sees, such as a prompt."""

    def places(self, graph: Graph) -> tuple[str, ...]:
        """Return the stored matrices that get a branch each.

        Raises:
            RequestError: the graph has no place for this kind.
        """

    def describe_at(self, graph: Graph, exported: Exported, weight: str, own: Any) -> Branch:
        """Return the branch at a matrix; the rest as ``LayerSurgery.describe``."""

    def start(self, branches: Sequence[Branch], exported: Exported) -> dict[str, Array]:
        """Return name of each tensor -> float32 value with which ``adapted`` says what the graph computes."""

    def put(self, graph: Graph, branches: Sequence[Branch], *, stacked: bool) -> None:
        """Change a graph, in place.

        Args:
            graph: the inference graph, or a loss graph made of it.
            branches: all of them, whose tensors the graph has.
            stacked: whether they have a leading axis of points, whose rows come one point after the other.
        """

    def fitted(self, exported: Exported, own: Any) -> Exported:
        """Return the source with what this kind leaves of it to data: the longest text."""

    def adapted(self, exported: Exported, branches: Sequence[Branch]) -> Exported:
        """Return the source whose reference is what graphs with the first values must give."""


def surgery_of(kind: str) -> LayerSurgery | GraphSurgery:
    """Return what a kind of adapter tells the export."""
    found: LayerSurgery | GraphSurgery = importlib.import_module(ADAPTERS[kind].export).SURGERY
    return found


def with_room(exported: Exported, settings: BranchSettings) -> Exported:
    """Return the source as the branches leave it to data."""
    surgery = surgery_of(settings.kind)
    return surgery.fitted(exported, settings.own) if isinstance(surgery, GraphSurgery) else exported


def adapted_source(exported: Exported, branches: Sequence[Branch]) -> Exported:
    """Return the source that graphs with branches are compared with."""
    surgery = surgery_of(branches[0].kind) if branches else None
    return surgery.adapted(exported, branches) if isinstance(surgery, GraphSurgery) else exported
