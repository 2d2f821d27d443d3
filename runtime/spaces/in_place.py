"""Dense weights moved in place: no second copy, one pass over memory each time a forward pass needs them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import Point, Update

from ..noise.reference import Float32, Sample
from ..noise.sweep import StepMove
from .base import Arrays, Site, Space, besides
from .changes import Change, Noise, Queued, carry_out
from .support import Part


class InPlace(Space):
    """Buffers that *are* the parameters: points are reached by adding and left by adding.

    Each move is one float32 addition per element and direction, so returning from +eps z leaves a rounding
    error of at most half an ulp; it is the same on every machine, hence part of the replayed arithmetic. So a
    step that is skipped leaves the weights as they were up to that rounding: undoing it would take the copy
    that this space is there to save. Every queued term has the sample of its own step.
    """

    exact = False
    singly = several = True

    def __init__(self, sites: Sequence[Site]) -> None:
        self._buffers = {site.name: buffer for site in sites for buffer in site.buffers}
        super().__init__(tuple(self._buffers), {name: b.shape for name, b in self._buffers.items()})
        first = sites[0]
        self._device, self._decays = first.device, first.decays
        self._noise = Noise.of(self._buffers, first.seed, first.directions)
        self._family = self._noise.family(tuple(self._buffers.values()))
        self._beside = besides(self._buffers, first, self._noise)
        self._offset: dict[tuple[int, int], float] = {}  # (step, probe) -> scale now in the buffers
        self._samples: dict[int, Sample | None] = {}  # of the steps in the offset, and of the present one
        self._shrink = 1.0  # comes before the queue
        self._shrunk: Sample | None = None  # which stretches shrink
        self._queue: list[Queued] = []
        self._mask: NDArray[np.uint8] | None = None  # of the queue

    def visit(self, step: int, point: Point, part: Part) -> None:
        """Queue the moves that lead from the present point to ``point``."""
        self._go_to(step, point, part)

    def apply(self, step: int, update: Update, part: Part) -> tuple[()]:
        """Queue the way back from the present point together with the update: one addition per direction."""
        shrink = update.shrink if self._decays else 1.0
        if update.dense is not None:
            self._leave(step, part)
            for beside in self._beside:
                beside.step(update.dense, step, update.moves, part, shrink)
            return ()
        if shrink != 1.0:
            self._leave(step, part)
            self._shrink, self._shrunk = shrink, part.sample
        self._go_to(step, update.moves, part)
        self._offset = {}  # the buffers' point is theta now
        return ()

    def settle(self) -> list[Change]:
        """Return what was queued, as one pass over memory."""
        if not self._queue and self._shrink == 1.0:
            return []
        mask = None if self._mask is None else self._device.put(self._mask)
        shrunk = None if self._shrink == 1.0 else self._shrunk
        change = self._noise.change(self._family, self._queue, self._shrink, shrunk, mask)
        self._queue, self._shrink = [], 1.0
        return [change]

    def theta(self) -> Float32:
        """Return the buffer."""
        (buffer,) = self._buffers.values()
        return self._device.host(buffer).astype(np.float32, copy=False)

    def assign(self, values: Arrays) -> None:
        """Take some tensors' values; what is queued is made first, as the others wait for it."""
        carry_out(self._device, self.settle())
        self._offset = {}
        self._write(values)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the buffers under the tensors' names, and what a rule keeps; only between steps."""
        carry_out(self._device, self.settle())
        state = {name: self._device.host(buffer) for name, buffer in self._buffers.items()}
        for beside in self._beside:
            state |= beside.state()
        return state

    def load(self, state: Arrays) -> None:
        """Take everything from a state."""
        self._queue, self._shrink, self._offset = [], 1.0, {}
        self._write(state)
        for beside in self._beside:
            beside.load(state)

    def _write(self, values: Arrays) -> None:
        for name, buffer in self._buffers.items():
            if name in values:
                self._device.write(buffer, values[name])

    def _leave(self, step: int, part: Part) -> None:
        """Bring the buffers to theta now."""
        self._go_to(step, (), part)
        carry_out(self._device, self.settle())

    def _go_to(self, step: int, point: Point, part: Part) -> None:
        if part.mask is not self._mask:  # one queue moves one set of elements
            carry_out(self._device, self.settle())
            self._mask = part.mask
        offset = {(step, move.probe): move.scale for move in point}
        self._samples[step] = part.sample
        for key in sorted(self._offset.keys() | offset.keys()):
            scale = offset.get(key, 0.0) - self._offset.get(key, 0.0)
            if scale != 0.0:
                self._queue.append(Queued(StepMove(*key, scale), self._samples[key[0]]))
        self._offset = offset
        self._samples = {step: part.sample}
