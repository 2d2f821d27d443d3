"""Estimators: directional derivatives from losses at a few points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .core import Estimator, Move, Point, State


@dataclass(frozen=True)
class TwoPoint(Estimator):
    """Central differences (SPSA; MeZO, arXiv 2305.17333, algorithm 1): error O(eps^2), 2 forwards a direction.

    g_k = (L(theta + eps z_k) - L(theta - eps z_k)) / (2 eps)
    """

    queries: int = 1

    @property
    def most_points(self) -> int:
        """Two for each direction."""
        return 2 * self.queries

    def points(self, state: State, eps: float) -> tuple[Point, ...]:
        """Return +eps z_0, -eps z_0, +eps z_1, ..."""
        return tuple((Move(k, sign * eps),) for k in range(self.queries) for sign in (1.0, -1.0))

    def coefficients(self, state: State, answers: Sequence[float], eps: float) -> tuple[float, ...]:
        """Return g_k from the losses that are the answers at ``points``."""
        pairs = zip(answers[0::2], answers[1::2], strict=True)
        return tuple((plus - minus) / (2.0 * eps) for plus, minus in pairs)


@dataclass(frozen=True)
class OneSided(Estimator):
    """Forward differences from one base loss: error O(eps), queries + 1 forwards.

    g_k = (L(theta + eps z_k) - L(theta)) / eps
    """

    queries: int = 8

    @property
    def most_points(self) -> int:
        """One for each direction, and theta itself."""
        return self.queries + 1

    def points(self, state: State, eps: float) -> tuple[Point, ...]:
        """Return theta, then +eps z_0, +eps z_1, ..."""
        return ((), *((Move(k, eps),) for k in range(self.queries)))

    def coefficients(self, state: State, answers: Sequence[float], eps: float) -> tuple[float, ...]:
        """Return g_k from the losses that are the answers at ``points``."""
        base, *probes = answers
        return tuple((loss - base) / eps for loss in probes)
