"""Small tensors rebuilt from a master copy: returning from a point is exact, whatever the precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import Point, Update

from ..noise.reference import Addition, Float32
from .base import Arrays, Noise


class OutOfPlace:
    """A master that only updates change, and the buffer that a session reads."""

    exact = True

    def __init__(self, name: str, buffer: Float32, noise: Noise, *, decays: bool) -> None:
        self._name = name
        self._buffer = buffer
        self.assignable = {name: buffer.shape}
        self.varying = frozenset((name,))
        self._master = buffer.copy()
        self._noise = noise
        self._decays = decays
        self._target: tuple[int, Point] = (0, ())
        self._current = True  # the buffer is at the target

    def visit(self, step: int, point: Point) -> None:
        """Remember where to be."""
        self._target, self._current = (step, point), False

    def apply(self, step: int, update: Update) -> list[Addition]:
        """Return what moves the master."""
        shrink = update.shrink if self._decays else 1.0
        terms = self._noise.terms(step, update.moves)
        self.visit(step, ())
        return [Addition(self._master, terms, shrink, self._noise.sample(step))]

    def settle(self) -> list[Addition]:
        """Copy the master to the buffer, and return what is to be added there."""
        if self._current:
            return []
        step, point = self._target
        np.copyto(self._buffer, self._master)
        self._current = True
        return [Addition(self._buffer, self._noise.terms(step, point))]

    def settled(self) -> None:
        """Nothing depends on it."""

    def assign(self, values: Arrays) -> None:
        """Take the tensor's value."""
        self.load(values)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the master under the tensor's name."""
        return {self._name: self._master}

    def load(self, state: Arrays) -> None:
        """Take the master from a state."""
        np.copyto(self._master, state[self._name], casting="same_kind")
        self.visit(0, ())
