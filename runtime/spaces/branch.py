"""SubZero on a frozen matrix: the low-rank window lives in the skinny branch beside it.

A branch of rank R adds (alpha / R) B A to its matrix. Here r of its R rows carry the present window,
A = V^T and B = U S, with S [r, r] what has been learnt inside it; the other R - r rows carry what earlier
windows learnt, refactored at each refresh by QR and a small SVD (the part that doesn't fit is dropped and
counted). The frozen matrix, whatever its precision, is never touched.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import InputError
from zoedge.manifest import LoraBranch
from zoedge.methods import Directions, Point, Update

from ..noise.reference import Float32
from .base import Arrays
from .low_rank import Window


class LowRankBranch:
    """The factors ``a`` [R, in] and ``b`` [out, R] of one branch."""

    exact = True

    def __init__(self, branch: LoraBranch, a: Float32, b: Float32, seed: int, spec: Directions) -> None:
        if branch.rank < 2:
            raise InputError(
                f"subzero needs branches of rank 2 or more and {branch.module} has {branch.rank}: "
                f"export with --lora-rank 8"
            )
        self._names = (branch.a, branch.b)
        self.assignable: dict[str, tuple[int, ...]] = {}
        self.varying = frozenset((branch.b,))
        self._a, self._b = a, b
        self._scale = branch.alpha / branch.rank
        shape = (b.shape[0], a.shape[1])
        self._kept = branch.rank - min(spec.rank or branch.rank, branch.rank // 2)
        spec = replace(spec, rank=branch.rank - self._kept)
        self._window = Window(branch.weight, shape, seed, spec)
        self._s = np.zeros((self._window.rank, self._window.rank))
        # learnt before the present window: delta = left @ right, in units of the matrix
        self._left = (self._scale * b).astype(np.float64) if b.any() else np.zeros((shape[0], 0))
        self._right = a.astype(np.float64) if b.any() else np.zeros((0, shape[1]))
        self._offset = np.zeros_like(self._s)
        self._current = False
        self._step = -1
        self.dropped = 0.0  # Frobenius norm of what truncation dropped so far

    def visit(self, step: int, point: Point) -> None:
        """Remember the offset inside the window, entering a new window when ``step`` begins one."""
        self._enter(step)
        self._offset, self._current = self._window.core(step, point), False

    def apply(self, step: int, update: Update) -> tuple[()]:
        """Move S, and shrink the whole delta."""
        self._enter(step)
        self._s *= update.shrink
        self._left *= update.shrink
        self._s += self._window.core(step, update.moves)
        self._offset, self._current = np.zeros_like(self._s), False
        return ()

    def settle(self) -> tuple[()]:
        """Write the factors."""
        if self._current or self._step < 0:
            return ()
        kept = self._right.shape[0]
        self._a[...], self._b[...] = 0.0, 0.0
        self._a[:kept], self._b[:, :kept] = self._right, self._left / self._scale
        self._a[self._kept :] = self._window.v.T
        self._b[:, self._kept :] = (self._window.u @ (self._s + self._offset)) / self._scale
        self._current = True
        return ()

    def settled(self) -> None:
        """Nothing depends on it."""

    def assign(self, values: Arrays) -> None:
        """Take nothing: ``assignable`` is empty."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return S, the earlier factors and the step that fixes the window."""
        a, b = self._names
        return {
            f"{b}:s": self._s,
            f"{b}:left": self._left,
            f"{a}:right": self._right,
            f"{b}:window": np.array([self._step, self.dropped]),
        }

    def load(self, state: Arrays) -> None:
        """Continue from a state."""
        a, b = self._names
        self._step, self.dropped = int(state[f"{b}:window"][0]), float(state[f"{b}:window"][1])
        if self._step >= 0:
            self._window.enter(self._step)
        self._s = np.array(state[f"{b}:s"], np.float64)
        self._left, self._right = (
            np.array(state[f"{b}:left"], np.float64),
            np.array(state[f"{a}:right"], np.float64),
        )
        self._offset, self._current = np.zeros_like(self._s), False

    def _enter(self, step: int) -> None:
        self._step = step
        u, v = self._window.u, self._window.v
        if not self._window.enter(step):
            return
        if self._s.any() or self._left.shape[1] > self._kept:
            self._refactor(np.hstack([self._left, u @ self._s]), np.vstack([self._right, v.T]))
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
