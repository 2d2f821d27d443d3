"""Dense weights moved in place: no second copy, one pass over memory each time a forward pass needs them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import Point, Update

from ..noise.reference import Addition, Float32, Sample, Term
from .base import Arrays, Noise


class InPlace:
    """A buffer that *is* the parameter: points are reached by adding and left by adding.

    Each move is one float32 addition per element and direction, so returning from +eps z leaves a rounding
    error of at most half an ulp; it is the same on every machine, hence part of the replayed arithmetic. So a
    step that is skipped leaves the weights as they were up to that rounding: undoing it would take the copy
    that this space is there to save. Every queued term has the sample of its own step.
    """

    exact = False

    def __init__(self, name: str, buffer: Float32, noise: Noise, *, decays: bool) -> None:
        self._name = name
        self._buffer = buffer
        self.assignable = {name: buffer.shape}
        self.varying = frozenset((name,))
        self._noise = noise
        self._decays = decays
        self._offset: dict[tuple[int, int], float] = {}  # (step, probe) -> scale now in the buffer
        self._shrink = 1.0  # comes before the queue
        self._shrunk: Sample | None = None  # which stretches shrink
        self._queue: list[Term] = []

    def visit(self, step: int, point: Point) -> None:
        """Queue the additions that lead from the present point to ``point``."""
        self._go_to({(step, move.probe): move.scale for move in point})

    def apply(self, step: int, update: Update) -> tuple[()]:
        """Queue the way back from the present point together with the update: one addition per direction."""
        if self._decays and update.shrink != 1.0:
            self._go_to({})
            self._noise.add_terms(self.settle())
            self._shrink, self._shrunk = update.shrink, self._noise.sample(step)
        self._go_to({(step, move.probe): move.scale for move in update.moves})
        self._offset = {}  # the buffer's point is theta now
        return ()

    def settle(self) -> list[Addition]:
        """Return what was queued, as one pass over memory."""
        if not self._queue and self._shrink == 1.0:
            return []
        addition = Addition(self._buffer, self._queue, self._shrink, self._shrunk)
        self._queue, self._shrink = [], 1.0
        return [addition]

    def settled(self) -> None:
        """Nothing depends on it."""

    def assign(self, values: Arrays) -> None:
        """Take the tensor's value."""
        self.load(values)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the buffer under the tensor's name; only between steps."""
        self._noise.add_terms(self.settle())
        return {self._name: self._buffer}

    def load(self, state: Arrays) -> None:
        """Take the buffer's values from a state."""
        self._queue, self._shrink, self._offset = [], 1.0, {}
        self._buffer[...] = state[self._name]

    def _go_to(self, offset: dict[tuple[int, int], float]) -> None:
        for step, probe in sorted(self._offset.keys() | offset.keys()):
            scale = offset.get((step, probe), 0.0) - self._offset.get((step, probe), 0.0)
            if scale != 0.0:
                self._queue.append(self._noise.term(step, probe, scale))
        self._offset = offset
