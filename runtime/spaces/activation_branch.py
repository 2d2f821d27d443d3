"""A small matrix S between the principal directions of a layer's activations, inside a LoRA branch.

Beside a frozen matrix, delta y = (alpha / R) x A^T B^T with A = V^T fixed and B = U S: V [in, R] are the
principal directions of the layer's inputs, U [out, R] those of its outputs, and only S [R, R] is moved. A
zeroth-order estimate is the noisier the more elements move, and activations live in few directions: the
same forwards teach R x R numbers far better than the (in + out) x R of the factors. Related: LoRA-XS
(arXiv 2405.17604), which takes the directions from the weights.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zoedge.adapters import LoraBranch
from zoedge.errors import InputError
from zoedge.methods import Point, Update

from ..device import Buffer
from ..noise.reference import Addition, Float32
from .base import Arrays, Noise, Site, Space, lora_of
from .out_of_place import OutOfPlace
from .support import Part


def basis_name(branch: LoraBranch) -> str:
    """Return the name under which a journal assigns U, beside A under its own."""
    return f"{branch.b}:basis"


class ActivationBranch(Space):
    """The factors ``a`` [R, in] and ``b`` [out, R] of one branch; until its bases are assigned it does nothing."""

    def __init__(self, site: Site) -> None:
        branch = lora_of(site)
        self._a, self._b = site.buffers
        if site.device.host(self._b).any():
            raise InputError(
                f"{branch.b} is not zero, so its branch can't get new directions: use --lora-space factors"
            )
        super().__init__((branch.b,), {branch.a: self._a.shape, basis_name(branch): self._b.shape})
        self._names = (branch.a, basis_name(branch))
        self._device = site.device
        self._u = site.device.zeros(self._b.shape)
        self._s = site.device.zeros((branch.rank, branch.rank))
        self._current = True  # B is U S
        noise = Noise(branch.b, site.seed, site.directions)
        self._inner = OutOfPlace(replace(site, name=f"{branch.b}:s", buffers=(self._s,), decays=True), noise)

    def visit(self, step: int, point: Point, part: Part) -> None:
        """Remember where S is to be."""
        self._inner.visit(step, point, part)

    def apply(self, step: int, update: Update, part: Part) -> list[Addition[Buffer]]:
        """Return what moves S."""
        return self._inner.apply(step, update, part)

    def settle(self) -> list[Addition[Buffer]]:
        """Return what brings S to where it is to be."""
        additions = self._inner.settle()
        self._current = self._current and not additions
        return additions

    def settled(self) -> None:
        """Write B = U S."""
        if not self._current:
            self._device.product(self._u, self._s, self._b)
            self._current = True

    def theta(self) -> Float32:
        """Return S."""
        return self._inner.theta()

    def assign(self, values: Arrays) -> None:
        """Take A = V^T or U."""
        a, u = self._names
        if a in values:
            self._device.write(self._a, values[a])
        if u in values:
            self._device.write(self._u, values[u])
            self._current = False

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return both bases and S."""
        a, u = self._names
        return {a: self._device.host(self._a), u: self._device.host(self._u), **self._inner.state()}

    def load(self, state: Arrays) -> None:
        """Continue from a state."""
        self.assign(state)
        self._inner.load(state)
