"""What a direction z is: its distribution and, for matrices, its shape. The runtime has a space for each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Dense:
    """Every element drawn for itself.

    Attributes:
        distribution: a table of the noise specification, "gaussian" or "rademacher"; unit variance.
    """

    kind: ClassVar[str] = "dense"
    memory: ClassVar[str] = ""  # of a run, in words
    beside: ClassVar[str] = "as large"  # how large a rule's arrays are

    distribution: str


@dataclass(frozen=True)
class LowRank:
    """z = s U Z V^T on matrices, U and V orthonormal and Z [rank, rank] drawn (SubZero, arXiv 2410.08989).

    Tensors of fewer than two axes move as with ``Dense``.
    """

    kind: ClassVar[str] = "low-rank"
    memory: ClassVar[str] = "(rows + columns) x rank numbers a matrix"
    beside: ClassVar[str] = "of rank x rank numbers a matrix"

    distribution: str
    rank: int


@dataclass(frozen=True)
class LazyLowRank(LowRank):
    """z = U V^T / sqrt(rank), U [rows, rank] drawn each time and V [columns, rank] kept (LOZO, arXiv 2410.07698)."""

    memory: ClassVar[str] = "columns x rank numbers a matrix"
    beside: ClassVar[str] = "of rows x rank numbers a matrix"


Directions = Dense | LowRank
