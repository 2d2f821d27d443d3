"""Small tensors rebuilt from master copies: returning from a point is exact, whatever the precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import Point, Update

from ..device import Buffer
from ..noise.reference import Float32
from .base import Arrays, Site, Space, besides
from .changes import Change, Noise, Queued, carry_out
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
        self._update: tuple[list[Queued], float] | None = (
            None  # of the masters, not made yet, and their shrink
        )
        self._target: tuple[int, Point, Part] = (0, (), Part())
        self._current = True  # the buffers are at the target

    def visit(self, step: int, point: Point, part: Part) -> None:
        """Remember where to be."""
        self._target, self._current = (step, point, part), False

    def apply(self, step: int, update: Update, part: Part) -> list[Change]:
        """Remember what moves the masters, or return it where a step leaves elements out."""
        shrink = update.shrink if self._decays else 1.0
        before = self._lasting()
        self.visit(step, (), part)
        if update.dense is not None:
            carry_out(self._device, before)
            for beside in self._beside:
                beside.step(update.dense, step, update.moves, part, shrink)
            return []
        queue = self._noise.queued(step, update.moves, part.sample)
        if part.sample is None and part.mask is None:
            self._update = queue, shrink
            return before
        carry_out(self._device, before)
        shrunk = None if shrink == 1.0 else part.sample
        return [self._noise.change(self._family, queue, shrink, shrunk, self._mask(part))]

    def settle(self) -> list[Change]:
        """Return what moves the masters and makes the buffers of them."""
        if self._current:
            return []
        step, point, part = self._target
        self._current = True
        queue = self._noise.queued(step, point, part.sample)
        if self._update is not None and part.sample is None and part.mask is None:
            (lasting, shrink), self._update = self._update, None
            return [self._noise.rebuilt(self._rebuilt, lasting, queue, shrink)]
        carry_out(self._device, self._lasting())
        return [self._noise.change(self._rebuilt, queue, mask=self._mask(part))]

    def _lasting(self) -> list[Change]:
        """Return what moves the masters."""
        if self._update is None:
            return []
        (queue, shrink), self._update = self._update, None
        return [self._noise.change(self._family, queue, shrink)]

    def _master(self, name: str) -> Float32:
        carry_out(self._device, self._lasting())
        return self._device.host(self._masters[name]).astype(np.float32, copy=False)

    def _mask(self, part: Part) -> Buffer | None:
        return None if part.mask is None else self._device.put(part.mask)

    def theta(self) -> Float32:
        """Return the master."""
        (name,) = self._masters
        return self._master(name)

    def values(self) -> dict[str, Float32]:
        """Return the masters where buffers are rounded."""
        return {name: self._master(name) for name in self._masters} if self._device.out_of_place else {}

    def assign(self, values: Arrays) -> None:
        """Take some tensors' values."""
        carry_out(self._device, self._lasting())
        for name, master in self._masters.items():
            if name in values:
                self._device.write(master, values[name])
        self.visit(0, (), Part())

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the masters under the tensors' names, and what a rule keeps."""
        carry_out(self._device, self._lasting())
        state = {name: self._device.host(master) for name, master in self._masters.items()}
        for beside in self._beside:
            state |= beside.state()
        return state

    def load(self, state: Arrays) -> None:
        """Continue from a state."""
        self.assign(state)
        for beside in self._beside:
            beside.load(state)
