"""Decisions: what is made of an update once it is known where it leads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .core import Decision, Move, Point


@dataclass(frozen=True)
class Lowest(Decision):
    """Stay, make the update or its opposite, whichever has the lowest loss; the first named where they are equal."""

    @property
    def most_points(self) -> int:
        """Three."""
        return 3

    def points(self, moves: Point) -> tuple[Point, ...]:
        """Return theta, where the update leads, and where its opposite does."""
        return (), moves, tuple(Move(probe, -scale) for probe, scale in moves)

    def chosen(self, moves: Point, answers: Sequence[float]) -> Point:
        """Return the moves to the lowest answer."""
        lowest = min(range(3), key=lambda place: answers[place])
        return self.points(moves)[lowest]
