"""Small tensors rebuilt from master copies: returning from a point is exact, whatever the precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import Point, Update

from ..device import Buffer
from ..noise.reference import Float32
from .base import Arrays, Site, Space, besides
from .changes import Change, Noise
from .support import Part


class OutOfPlace(Space):
    """Masters that only updates change, and the buffers that a session reads.

    Args:
        sites: what it is made of.
        noise: the tensors' directions; by default those of their names.
    """

    singly = several = True

    def __init__(self, sites: Sequence[Site], noise: Noise | None = None) -> None:
        buffers = {site.name: buffer for site in sites for buffer in site.buffers}
        super().__init__(tuple(buffers), {name: buffer.shape for name, buffer in buffers.items()})
        first = sites[0]
        self._device, self._decays = first.device, first.decays
        self._masters = {name: first.device.master(buffer) for name, buffer in buffers.items()}
        self._noise = noise or Noise.of(buffers, first.seed, first.directions)
        masters = tuple(self._masters.values())
        self._family = self._noise.family(masters)
        self._rebuilt = self._noise.family(tuple(buffers.values()), masters)
        self._beside = besides(self._masters, first, self._noise)
        self._target: tuple[int, Point, Part] = (0, (), Part())
        self._current = True  # the buffers are at the target

    def visit(self, step: int, point: Point, part: Part) -> None:
        """Remember where to be."""
        self._target, self._current = (step, point, part), False

    def apply(self, step: int, update: Update, part: Part) -> list[Change]:
        """Return what moves the masters."""
        shrink = update.shrink if self._decays else 1.0
        self.visit(step, (), part)
        if update.dense is not None:
            for beside in self._beside:
                beside.step(update.dense, step, update.moves, part, shrink)
            return []
        queue = self._noise.queued(step, update.moves, part.sample)
        shrunk = None if shrink == 1.0 else part.sample
        return [self._noise.change(self._family, queue, shrink, shrunk, self._mask(part))]

    def settle(self) -> list[Change]:
        """Return what makes the buffers of the masters."""
        if self._current:
            return []
        step, point, part = self._target
        self._current = True
        queue = self._noise.queued(step, point, part.sample)
        return [self._noise.change(self._rebuilt, queue, mask=self._mask(part))]

    def _mask(self, part: Part) -> Buffer | None:
        return None if part.mask is None else self._device.put(part.mask)

    def theta(self) -> Float32:
        """Return the master."""
        (master,) = self._masters.values()
        return self._device.host(master).astype(np.float32, copy=False)

    def assign(self, values: Arrays) -> None:
        """Take some tensors' values."""
        for name, master in self._masters.items():
            if name in values:
                self._device.write(master, values[name])
        self.visit(0, (), Part())

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the masters under the tensors' names, and what a rule keeps."""
        state = {name: self._device.host(master) for name, master in self._masters.items()}
        for beside in self._beside:
            state |= beside.state()
        return state

    def load(self, state: Arrays) -> None:
        """Continue from a state."""
        self.assign(state)
        for beside in self._beside:
            beside.load(state)
