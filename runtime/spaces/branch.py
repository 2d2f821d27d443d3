"""SubZero and LOZO on a frozen matrix: the low-rank window lives in the skinny branch beside it.

A branch of rank R adds (alpha / R) B A to its matrix. Here r of its R rows carry the present window,
A = V^T and B = U S, with S [r, r] what has been learnt inside it (of LOZO B itself); the other R - r rows carry what
earlier windows learnt, refactored at each refresh by QR and a small SVD (the part that doesn't fit is dropped and
counted). The frozen matrix, whatever its precision, is never touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import InputError
from zoedge.methods import Point, Update

from ..noise.reference import Float32
from .base import Arrays, Site, Space, lora_of
from .core_arrays import CoreArrays
from .lazy import LazyWindow
from .low_rank import rank_of, window_of
from .support import Part


class LowRankBranch(Space):
    """The factors ``a`` [R, in] and ``b`` [out, R] of one branch."""

    def __init__(self, sites: Sequence[Site]) -> None:
        (site,) = sites
        branch = lora_of(site)
        if branch.rank < 2:
            raise InputError(
                f"low-rank directions need branches of rank 2 or more and {branch.module} has {branch.rank}: "
                f"export with --lora-rank 8"
            )
        super().__init__((branch.b,), {})
        self._names = (branch.a, branch.b)
        self._device = site.device
        self._a, self._b = site.buffers
        a, b = (site.device.host(x).astype(np.float32, copy=False) for x in site.buffers)
        self._scale = branch.alpha / branch.rank
        shape = (b.shape[0], a.shape[1])
        moved = min(rank_of(site), branch.rank // 2)
        self._kept = branch.rank - moved
        self._window = window_of(site, branch.weight, shape, moved)
        lazy = self._window if isinstance(self._window, LazyWindow) else None
        self._beside = CoreArrays(branch.b, lazy, site.arrays) if lazy else None
        self._s = np.zeros(self._window.core_shape)
        # learnt before the present window: delta = left @ right, in units of the matrix
        self._left = (self._scale * b).astype(np.float64) if b.any() else np.zeros((shape[0], 0))
        self._right = a.astype(np.float64) if b.any() else np.zeros((0, shape[1]))
        self._offset = np.zeros_like(self._s)
        self._current = False
        self._first = -1  # the present window's first step
        self.dropped = 0.0  # Frobenius norm of what truncation dropped so far

    def visit(self, step: int, point: Point, part: Part) -> None:
        """Remember the offset inside the window, entering a new window when one begins."""
        self._enter(part.window)
        self._offset, self._current = self._window.core(step, point), False

    def apply(self, step: int, update: Update, part: Part) -> tuple[()]:
        """Move S, and shrink the whole delta."""
        self._enter(part.window)
        self._s *= update.shrink
        self._left *= update.shrink
        beside = self._beside
        self._s += beside.step(step, update) if beside else self._window.core(step, update.moves)
        self._offset, self._current = np.zeros_like(self._s), False
        return ()

    def settle(self) -> tuple[()]:
        """Write the factors."""
        if self._current or self._first < 0:
            return ()
        kept = self._right.shape[0]
        a, b = np.zeros(self._a.shape, np.float32), np.zeros(self._b.shape, np.float32)
        a[:kept], b[:, :kept] = self._right, self._left / self._scale
        a[self._kept :] = self._window.v.T
        b[:, self._kept :] = self._window.left(self._s + self._offset) / self._scale
        self._device.write(self._a, a)
        self._device.write(self._b, b)
        self._current = True
        return ()

    def theta(self) -> Float32:
        """Return S, what is learnt inside the window."""
        return self._s.astype(np.float32)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return S, the earlier factors and the first step of the window."""
        a, b = self._names
        return {
            f"{b}:s": self._s,
            f"{b}:left": self._left,
            f"{a}:right": self._right,
            f"{b}:first": np.array([self._first, self.dropped]),
            **(self._beside.state() if self._beside else {}),
        }

    def load(self, state: Arrays) -> None:
        """Continue from a state."""
        a, b = self._names
        self._first, self.dropped = int(state[f"{b}:first"][0]), float(state[f"{b}:first"][1])
        if self._first >= 0:
            self._window.enter(self._first)
        if self._beside:
            self._beside.load(state)
        self._s = np.array(state[f"{b}:s"], np.float64)
        self._left, self._right = (
            np.array(state[f"{b}:left"], np.float64),
            np.array(state[f"{a}:right"], np.float64),
        )
        self._offset, self._current = np.zeros_like(self._s), False

    def _enter(self, first: int) -> None:
        self._first = first
        if self._window.first == first:
            return
        learnt, v = self._window.left(self._s), self._window.v
        if self._beside:
            self._beside.enter(first)
        else:
            self._window.enter(first)
        if self._s.any() or self._left.shape[1] > self._kept:
            self._refactor(np.hstack([self._left, learnt]), np.vstack([self._right, v.T]))
        self._s = np.zeros_like(self._s)

    def _refactor(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> None:
        """Keep the best rank-``_kept`` factors of left @ right."""
        q_left, r_left = np.linalg.qr(left)
        q_right, r_right = np.linalg.qr(right.T)
        w, sigma, vt = np.linalg.svd(r_left @ r_right.T)
        keep = min(self._kept, len(sigma))
        self.dropped += float(np.linalg.norm(sigma[keep:]))
        self._left = q_left @ (w[:, :keep] * sigma[:keep])
        self._right = vt[:keep] @ q_right.T
