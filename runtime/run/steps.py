"""Where a run's steps come from: measured here, or wherever else their answers are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from ..records import Step
from .fold import Fold

NO_LENGTH = (
    1e-30  # a learning rate with which all moves of a step are made, and no weight of a usual size changes
)

Batch = TypeVar("Batch")


class Steps(Protocol):
    """Stands between the loop and the fold."""

    def next(self, fold: Fold, lr: float) -> Step:
        """Return the fold's next step, with its answers; the fold isn't told yet."""


class Measuring(Protocol[Batch]):
    """What measures a batch at points."""

    def batch(self, step: int) -> Sequence[Batch]:
        """Return the passes of a step."""

    def losses(self, batch: Sequence[Batch], points: Iterable[object]) -> Iterator[float]:
        """Yield the answer at each point."""


class MeasuredHere(Generic[Batch]):
    """Steps whose points are measured by forward passes of this process."""

    def __init__(self, measure: Measuring[Batch]) -> None:
        self._measure = measure

    def next(self, fold: Fold, lr: float) -> Step:
        """Measure the next step."""
        batch = self._measure.batch(fold.step)
        return fold.measure(lr, lambda points: self._measure.losses(batch, settled(fold, points)))


def settled(fold: Fold, points: Iterable[int]) -> Iterator[int]:
    """Yield points once the parameters are there."""
    for point in points:
        fold.parameters.settle()
        yield point
