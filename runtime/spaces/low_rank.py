"""SubZero's directions z = s U Z V^T (arXiv 2410.08989), and dense matrices that move along them or LOZO's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import LazyLowRank, LowRank, Point, Update

from ..noise.reference import PURPOSE_BASIS, Float32, Stream, directions, tensor_id
from .base import Arrays, Site, Space
from .core_arrays import CoreArrays
from .lazy import LazyWindow
from .support import Part


class Window:
    """The pair U [out, r], V [in, r] of one refresh window, and the r x r directions inside it.

    U and V have orthonormal columns (QR of Gaussians in float64, signs fixed so that R's diagonal is
    positive) and follow from the seed, the tensor and the window's first step. z is scaled by
    s = sqrt(out * in) / r, so that E||z||^2 = out * in as for a dense direction.
    """

    def __init__(self, name: str, shape: tuple[int, int], seed: int, spec: LowRank) -> None:
        self._seed, self._tensor, self._spec = seed, tensor_id(name), spec
        self.shape = shape
        self.rank = min(spec.rank, *shape)
        self.core_shape = (self.rank, self.rank)
        self.scale = math.sqrt(shape[0] * shape[1]) / self.rank
        self.first: int | None = None
        self.u: Float32 = np.zeros((shape[0], self.rank), np.float32)
        self.v: Float32 = np.zeros((shape[1], self.rank), np.float32)

    def enter(self, first: int) -> bool:
        """Make U and V those of the window that begins with step ``first``; True when they changed."""
        if first == self.first:
            return False
        self.first = first
        self.u = self._orthonormal(self.shape[0], first, 0)
        self.v = self._orthonormal(self.shape[1], first, 1)
        return True

    def core(self, step: int, point: Point) -> NDArray[np.float64]:
        """Return s * sum(scale * Z_k), shape [r, r], float64."""
        total = np.zeros((self.rank, self.rank))
        for move in point:
            stream = Stream(self._seed, self._tensor, step, move.probe)
            z = directions(stream, (self.rank, self.rank), self._spec.distribution)
            total += (self.scale * move.scale) * z.astype(np.float64)
        return total

    def left(self, core: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what V^T is multiplied with from the left: U @ core, shape [out, r]."""
        product: NDArray[np.float64] = self.u @ core
        return product

    def _orthonormal(self, rows: int, first: int, side: int) -> Float32:
        stream = Stream(self._seed, self._tensor, first, side, PURPOSE_BASIS)
        q, r = np.linalg.qr(directions(stream, (rows, self.rank)).astype(np.float64))
        return np.ascontiguousarray(q * np.sign(np.diagonal(r)), dtype=np.float32)


def rank_of(site: Site) -> int:
    """Return the rank of a site's directions, which must have one.

    Raises:
        ValueError: they have none.
    """
    if not isinstance(site.directions, LowRank):
        raise ValueError(f"{site.name} can't move by {site.directions}, which have no rank")
    return site.directions.rank


def window_of(site: Site, name: str, shape: tuple[int, int], rank: int | None = None) -> Window | LazyWindow:
    """Return the window of a site's directions, which must be low-rank and, unless they are lazy, without arrays.

    Args:
        site: the site.
        name: of the matrix, whose streams it draws from.
        shape: of the matrix.
        rank: in place of the directions' own.

    Raises:
        ValueError: they aren't.
    """
    spec = site.directions
    if not isinstance(spec, LowRank) or (site.arrays and not isinstance(spec, LazyLowRank)):
        raise ValueError(f"{site.name} can't move by {site.directions} with {site.arrays} beside it")
    made = LazyWindow if isinstance(spec, LazyLowRank) else Window
    return made(name, shape, site.seed, replace(spec, rank=rank or spec.rank))


class LowRankInPlace(Space):
    """A dense matrix moved in place along low-rank directions; [out, in, ...] is taken as [out, in * ...].

    As with ``InPlace``, leaving a point restores the weights up to float32 rounding.
    """

    exact = False

    def __init__(self, sites: Sequence[Site]) -> None:
        (site,) = sites
        (self._buffer,) = site.buffers
        super().__init__((site.name,), {site.name: self._buffer.shape})
        self._name = site.name
        self._device = site.device
        rows = self._buffer.shape[0]
        shape = (rows, math.prod(self._buffer.shape[1:]))
        self._window = window_of(site, site.name, shape)
        lazy = self._window if isinstance(self._window, LazyWindow) else None
        self._beside = CoreArrays(site.name, lazy, site.arrays) if lazy else None
        self._decays = site.decays
        self._at: NDArray[np.float64] = np.zeros(self._window.core_shape)  # offset in the buffer

    def visit(self, step: int, point: Point, part: Part) -> None:
        """Move the buffer from the present point to ``point``."""
        self._enter(part.window)
        self._go_to(self._window.core(step, point))

    def apply(self, step: int, update: Update, part: Part) -> tuple[()]:
        """Move the buffer to the updated parameter."""
        self._enter(part.window)
        if self._decays and update.shrink != 1.0:
            self._go_to(np.zeros_like(self._at))
            self._device.shrink(self._buffer, update.shrink)
        beside = self._beside
        self._go_to(beside.step(step, update) if beside else self._window.core(step, update.moves))
        self._at = np.zeros_like(self._at)
        return ()

    def theta(self) -> Float32:
        """Return the buffer."""
        return self._device.host(self._buffer).astype(np.float32, copy=False)

    def assign(self, values: Arrays) -> None:
        """Take the tensor's value."""
        self._device.write(self._buffer, values[self._name])
        self._at = np.zeros_like(self._at)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the buffer under the tensor's name; only between steps."""
        beside = self._beside.state() if self._beside else {}
        return {self._name: self._device.host(self._buffer), **beside}

    def load(self, state: Arrays) -> None:
        """Take everything from a state."""
        self.assign(state)
        if self._beside:
            self._beside.load(state)

    def _enter(self, first: int) -> None:
        if self._beside:
            self._beside.enter(first)
        else:
            self._window.enter(first)

    def _go_to(self, core: NDArray[np.float64]) -> None:
        step = core - self._at
        if step.any():
            left = self._window.left(step).astype(np.float32)  # [out, r]
            self._device.add_product(self._buffer, left, self._window.v.T)
        self._at = core
