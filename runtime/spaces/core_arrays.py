"""The arrays that a rule keeps beside low-rank moves: as large as a window's core, and not as the matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import Point, Update

from ..noise.reference import Float32
from .base import Arrays
from .lazy import LazyWindow


class CoreArrays:
    """Zeros at the start, part of the state; in the host's memory.

    Args:
        name: the tensor's.
        window: its window.
        arrays: their names; what they hold must be sums of estimates, as a new window turns them linearly.
    """

    def __init__(self, name: str, window: LazyWindow, arrays: Sequence[str]) -> None:
        self._name, self._window = name, window
        self._arrays = {array: np.zeros(window.core_shape, np.float32) for array in arrays}

    def enter(self, first: int) -> None:
        """Enter a window, and turn what was gathered into it."""
        before, begun = self._window.v, self._window.first is not None
        if self._window.enter(first) and begun:
            for name, array in self._arrays.items():
                self._arrays[name] = self._window.carried(array, before)

    def step(self, step: int, update: Update) -> NDArray[np.float64]:
        """Return the core that the rule moves the matrix by."""
        if update.dense is None:
            return self._window.core(step, update.moves)
        moved = np.zeros(self._window.core_shape, np.float32)
        update.dense(_CoreAtStep({**self._arrays, "theta": moved}, self._window, step), update.moves, 1.0)
        return moved.astype(np.float64)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays and the window, under names of their own."""
        state: dict[str, NDArray[np.generic]] = {f"{self._name}:{n}": a for n, a in self._arrays.items()}
        first = -1 if self._window.first is None else self._window.first
        return state | ({f"{self._name}:window": np.array([first])} if self._arrays else {})

    def load(self, state: Arrays) -> None:
        """Continue from a ``state``."""
        for name in self._arrays:
            self._arrays[name] = np.array(state[f"{self._name}:{name}"], np.float32)
        first = int(state[f"{self._name}:window"][0]) if self._arrays else -1
        if first >= 0:
            self._window.enter(first)


class _CoreAtStep:
    """A ``methods.Tensor`` whose parameter is what a matrix moves by."""

    def __init__(self, arrays: dict[str, Float32], window: LazyWindow, step: int) -> None:
        self._arrays, self._window, self._step = arrays, window, step

    @property
    def size(self) -> int:
        """How many elements each array has."""
        return self._arrays["theta"].size

    def add(self, name: str, moves: Point, shrink: float = 1.0) -> None:
        """Let an array be shrink * itself + sum(scale * U_k) / sqrt(r)."""
        array = self._arrays[name]
        array *= np.float32(shrink)
        array += self._window.core(self._step, moves).astype(np.float32)

    def parts(self) -> Iterator[dict[str, Any]]:
        """Yield the arrays at once."""
        yield {name: array.reshape(-1) for name, array in self._arrays.items()}
