"""Dense weights moved in place: no second copy, one pass over memory each time a forward pass needs them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import Point, Update

from ..device import Buffer
from ..noise.reference import Addition, Float32, Sample, Term
from .base import Arrays, Beside, Noise, Site, Space
from .support import Part


class InPlace(Space):
    """A buffer that *is* the parameter: points are reached by adding and left by adding.

    Each move is one float32 addition per element and direction, so returning from +eps z leaves a rounding
    error of at most half an ulp; it is the same on every machine, hence part of the replayed arithmetic. So a
    step that is skipped leaves the weights as they were up to that rounding: undoing it would take the copy
    that this space is there to save. Every queued term has the sample of its own step.
    """

    exact = False
    singly = True

    def __init__(self, site: Site) -> None:
        (self._buffer,) = site.buffers
        super().__init__((site.name,), {site.name: self._buffer.shape})
        self._name = site.name
        self._device = site.device
        self._noise = Noise(site.name, site.seed, site.directions)
        self._beside = Beside(site.name, self._buffer.shape, site.arrays, self._noise, site.device)
        self._decays = site.decays
        self._offset: dict[tuple[int, int], float] = {}  # (step, probe) -> scale now in the buffer
        self._samples: dict[int, Sample | None] = {}  # of the steps in the offset, and of the present one
        self._shrink = 1.0  # comes before the queue
        self._shrunk: Sample | None = None  # which stretches shrink
        self._queue: list[Term] = []
        self._mask: NDArray[np.uint8] | None = None  # of the queue

    def visit(self, step: int, point: Point, part: Part) -> None:
        """Queue the additions that lead from the present point to ``point``."""
        self._go_to(step, point, part)

    def apply(self, step: int, update: Update, part: Part) -> tuple[()]:
        """Queue the way back from the present point together with the update: one addition per direction."""
        shrink = update.shrink if self._decays else 1.0
        if update.dense is not None:
            self._leave(step, part)
            self._beside.step(self._buffer, step, update, part, shrink)
            return ()
        if shrink != 1.0:
            self._leave(step, part)
            self._shrink, self._shrunk = shrink, part.sample
        self._go_to(step, update.moves, part)
        self._offset = {}  # the buffer's point is theta now
        return ()

    def settle(self) -> list[Addition[Buffer]]:
        """Return what was queued, as one pass over memory."""
        if not self._queue and self._shrink == 1.0:
            return []
        mask = None if self._mask is None else self._device.put(self._mask)
        addition = Addition(self._buffer, self._queue, self._shrink, self._shrunk, mask)
        self._queue, self._shrink = [], 1.0
        return [addition]

    def theta(self) -> Float32:
        """Return the buffer."""
        return self._device.host(self._buffer).astype(np.float32, copy=False)

    def assign(self, values: Arrays) -> None:
        """Take the tensor's value."""
        self._take(values)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the buffer under the tensor's name, and what a rule keeps; only between steps."""
        self._device.add_terms(self.settle())
        return {self._name: self._device.host(self._buffer), **self._beside.state()}

    def load(self, state: Arrays) -> None:
        """Take everything from a state."""
        self._take(state)
        self._beside.load(state)

    def _take(self, values: Arrays) -> None:
        self._queue, self._shrink, self._offset = [], 1.0, {}
        self._device.write(self._buffer, values[self._name])

    def _leave(self, step: int, part: Part) -> None:
        """Bring the buffer to theta now."""
        self._go_to(step, (), part)
        self._device.add_terms(self.settle())

    def _go_to(self, step: int, point: Point, part: Part) -> None:
        if part.mask is not self._mask:  # one queue moves one set of elements
            self._device.add_terms(self.settle())
            self._mask = part.mask
        offset = {(step, move.probe): move.scale for move in point}
        self._samples[step] = part.sample
        for key in sorted(self._offset.keys() | offset.keys()):
            scale = offset.get(key, 0.0) - self._offset.get(key, 0.0)
            if scale != 0.0:
                self._queue.append(self._noise.term(*key, scale, self._samples[key[0]]))
        self._offset = offset
        self._samples = {step: part.sample}
