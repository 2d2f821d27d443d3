"""Tensors that move as others do and, at some steps, by one scalar each: how far they have gone from where they began.

At those steps (``methods.support.Projection``) a point lies at theta0 + c Delta, where Delta is how far the tensor had
come when they began and c is at first 1: in the paper's terms (DiZO, arXiv 2502.03304) gamma / n. What holds c times
Delta is scaled to hold another multiple, so nothing is kept but theta0, and that is mapped from the bundle's file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import Point, Update

from ..noise.reference import Float32, Stream, directions, tensor_id
from .base import Arrays, Site, Space
from .changes import Change, carry_out
from .in_place import InPlace
from .layer_scales import sum_of_squares
from .out_of_place import OutOfPlace
from .parts import Part

_PIECE = 1 << 16  # elements that are subtracted at a time


class ProjectedSpace(Space):
    """One tensor; ``inner`` moves it at all other steps."""

    projects = True
    inner: ClassVar[type[InPlace | OutOfPlace]]

    def __init__(self, sites: Sequence[Site]) -> None:
        (site,) = sites
        if site.projection is None:
            raise ValueError(f"{site.name} is not projected")
        self._space = self.inner(sites)
        super().__init__(tuple(self._space.varying), self._space.assignable)
        (self._buffer,) = site.buffers
        self._name, self._device, self._projection = site.name, site.device, site.projection
        self._stream = Stream(site.seed, tensor_id(site.name), 0, 0)
        # theta0 [the tensor's shape], in the host's memory
        self._start = site.exported() if site.exported else self._space.theta().copy()
        self._first = -1  # step at which the present projection began
        self._distance = 0.0  # n
        self._scalar = 1.0  # c

    def visit(self, step: int, point: Point, part: Part) -> None:
        """Let the inner space do it, or go to where the scalar leads."""
        if part.projection is None:
            self._space.visit(step, point, part)
            return
        self._begin(step, part)
        if self._distance > 0.0:
            z = self._direction(step, part)
            self._go_to(self._scalar + sum(move.scale for move in point) * z / self._distance)

    def apply(self, step: int, update: Update, part: Part) -> list[Change]:
        """Let the inner space do it, or move the scalar, whose moves are in units of n."""
        if part.projection is None:
            return list(self._space.apply(step, update, part))
        self._begin(step, part)
        if self._distance > 0.0:
            z, bound = self._direction(step, part), self._projection.range
            moved = self._scalar + sum(move.scale for move in update.moves) * z
            self._stay_at(min(max(moved, 1.0 - bound), 1.0 + bound))
        return []

    def settle(self) -> list[Change]:
        """Return what the inner space does: where a scalar leads is gone to at once."""
        return list(self._space.settle())

    def settled(self) -> None:
        """Let the inner space go on."""
        self._space.settled()

    def theta(self) -> Float32:
        """Return the parameter's values."""
        return self._space.theta()

    def values(self) -> dict[str, Float32]:
        """Return what the inner space does: a step ends at theta."""
        return self._space.values()

    def assign(self, values: Arrays) -> None:
        """Take the tensor's value; it was exported with another, which projections go on from."""
        self._space.assign(values)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return that of the inner space, and when, from how far and to what the present projection has come."""
        kept = np.array([self._first, self._distance, self._scalar])
        return {**self._space.state(), f"{self._name}:projection": kept}

    def load(self, state: Arrays) -> None:
        """Continue from a state."""
        first, self._distance, self._scalar = map(float, state[f"{self._name}:projection"])
        self._first = int(first)
        self._space.load(state)

    def _begin(self, step: int, part: Part) -> None:
        """Settle the inner space, and where a projection begins see how far theta is."""
        begins = self._first != part.projection
        if begins:
            self._space.visit(step, (), part)
        carry_out(self._device, self._space.settle())
        if begins and part.projection is not None:
            self._first = part.projection
            self._distance, self._scalar = distance(self._space.theta(), self._start), 1.0

    def _direction(self, step: int, part: Part) -> float:
        """Return z, one number of the tensor's stream, within its bounds."""
        z = float(directions(self._stream._replace(step=step), (1,))[0])
        bound = self._projection.range * self._distance / self._projection.eps
        return min(max(z, -bound), bound)

    def _go_to(self, scalar: float) -> None:
        """Bring the buffer to theta0 + scalar * Delta."""
        raise NotImplementedError

    def _stay_at(self, scalar: float) -> None:
        """Let theta be there."""
        raise NotImplementedError


class ProjectedInPlace(ProjectedSpace):
    """The buffer is scaled itself, and returning is exact up to float32 rounding."""

    exact = False
    inner = InPlace

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__(sites)
        self._here = 1.0  # c as the buffer has it
        self._anchor = self._device.put(self._start)

    def load(self, state: Arrays) -> None:
        """Continue from a state."""
        super().load(state)
        self._here = self._scalar

    def _begin(self, step: int, part: Part) -> None:
        begins = self._first != part.projection
        super()._begin(step, part)
        if begins:
            self._here = 1.0

    def _go_to(self, scalar: float) -> None:
        if scalar == self._here:
            return
        factor = np.float32(scalar / self._here)
        for part in self._device.pieces({"theta": self._buffer, "start": self._anchor}):
            part["theta"] -= part["start"]
            part["theta"] *= factor
            part["theta"] += part["start"]
        self._here = scalar

    def _stay_at(self, scalar: float) -> None:
        self._go_to(scalar)
        self._scalar = scalar


class ProjectedOutOfPlace(ProjectedSpace):
    """The buffer is made of the master, and returning is exact."""

    inner = OutOfPlace

    def _go_to(self, scalar: float) -> None:
        self._device.write(self._buffer, self._scaled(scalar))

    def _stay_at(self, scalar: float) -> None:
        self._space.assign({self._name: self._scaled(scalar)})
        carry_out(self._device, self._space.settle())
        self._scalar = scalar

    def _scaled(self, scalar: float) -> Float32:
        theta = self._space.theta()
        if scalar == self._scalar:
            return theta
        moved = theta - self._start
        moved *= np.float32(scalar / self._scalar)
        moved += self._start
        return moved


def distance(theta: Float32, start: Float32) -> float:
    """Return |theta - start|, with the same bits on every processor."""
    one, other, total = theta.reshape(-1), start.reshape(-1), 0.0
    for place in range(0, one.size, _PIECE):
        piece = slice(place, place + _PIECE)
        total += sum_of_squares(one[piece] - other[piece])
    return math.sqrt(total)
