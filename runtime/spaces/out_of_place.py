"""Small tensors rebuilt from a master copy: returning from a point is exact, whatever the precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import Point, Update

from ..device import Buffer
from ..noise.reference import Addition, Float32
from .base import Arrays, Beside, Noise, Site, Space
from .support import Part


class OutOfPlace(Space):
    """A master that only updates change, and the buffer that a session reads.

    Args:
        site: what it is made of.
        noise: its directions; by default those of the tensor's name.
    """

    singly = True

    def __init__(self, site: Site, noise: Noise | None = None) -> None:
        (self._buffer,) = site.buffers
        super().__init__((site.name,), {site.name: self._buffer.shape})
        self._name = site.name
        self._device = site.device
        self._master = site.device.master(self._buffer)
        self._noise = noise or Noise(site.name, site.seed, site.directions)
        self._beside = Beside(site.name, self._buffer.shape, site.arrays, self._noise, site.device)
        self._decays = site.decays
        self._target: tuple[int, Point, Part] = (0, (), Part())
        self._current = True  # the buffer is at the target

    def visit(self, step: int, point: Point, part: Part) -> None:
        """Remember where to be."""
        self._target, self._current = (step, point, part), False

    def apply(self, step: int, update: Update, part: Part) -> list[Addition[Buffer]]:
        """Return what moves the master."""
        shrink = update.shrink if self._decays else 1.0
        self.visit(step, (), part)
        if update.dense is not None:
            self._beside.step(self._master, step, update, part, shrink)
            return []
        terms = self._noise.terms(step, update.moves, part.sample)
        return [Addition(self._master, terms, shrink, part.sample, self._mask(part))]

    def settle(self) -> list[Addition[Buffer]]:
        """Return what makes the buffer of the master."""
        if self._current:
            return []
        step, point, part = self._target
        self._current = True
        terms = self._noise.terms(step, point, part.sample)
        return [Addition(self._buffer, terms, mask=self._mask(part), source=self._master)]

    def _mask(self, part: Part) -> Buffer | None:
        return None if part.mask is None else self._device.put(part.mask)

    def theta(self) -> Float32:
        """Return the master."""
        return self._device.host(self._master).astype(np.float32, copy=False)

    def assign(self, values: Arrays) -> None:
        """Take the tensor's value."""
        self._device.write(self._master, values[self._name])
        self.visit(0, (), Part())

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the master under the tensor's name, and what a rule keeps."""
        return {self._name: self._device.host(self._master), **self._beside.state()}

    def load(self, state: Arrays) -> None:
        """Take everything from a state."""
        self.assign(state)
        self._beside.load(state)
