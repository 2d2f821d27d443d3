"""LOZO's directions z = U V^T / sqrt(r) (arXiv 2410.07698): V stays for a window, U is drawn for each probe."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import LowRank, Point

from ..noise.reference import PURPOSE_BASIS, Float32, Stream, directions, tensor_id


class LazyWindow:
    """V [in, r] of one window, and what is learnt beside it; the interface is that of ``low_rank.Window``.

    U [out, r] and V are of unit variance, and every tensor and purpose has a stream of its own: the U of a probe is
    that of its update, also where V is drawn anew. As z has unit variance, the paper's learning rate is ours, and its
    eps is ours over sqrt(r).
    """

    def __init__(self, name: str, shape: tuple[int, int], seed: int, spec: LowRank) -> None:
        self._seed, self._tensor, self._spec = seed, tensor_id(name), spec
        self.shape = shape
        self.rank = min(spec.rank, *shape)
        self.core_shape = (shape[0], self.rank)
        self.first: int | None = None
        self.v: Float32 = np.zeros((shape[1], self.rank), np.float32)

    def enter(self, first: int) -> bool:
        """Make V that of the window that begins with step ``first``; True when it changed."""
        if first == self.first:
            return False
        self.first = first
        stream = Stream(self._seed, self._tensor, first, 1, PURPOSE_BASIS)
        self.v = directions(stream, self.v.shape, self._spec.distribution)
        return True

    def core(self, step: int, point: Point) -> NDArray[np.float64]:
        """Return sum(scale * U_k) / sqrt(r), shape [out, r], float64."""
        total = np.zeros(self.core_shape)
        for move in point:
            stream = Stream(self._seed, self._tensor, step, move.probe)
            u = directions(stream, self.core_shape, self._spec.distribution)
            total += (move.scale / math.sqrt(self.rank)) * u.astype(np.float64)
        return total

    def left(self, core: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what V^T is multiplied with from the left: a core itself."""
        return core

    def carried(self, core: Float32, before: Float32) -> Float32:
        """Return a core of the window of V ``before`` in the present one: N V_before^T V / in, as V^T V is about in."""
        turn = before.astype(np.float64).T @ self.v.astype(np.float64) / self.shape[1]
        return (core.astype(np.float64) @ turn).astype(np.float32)
