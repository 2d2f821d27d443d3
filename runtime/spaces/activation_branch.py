"""A small matrix S between the principal directions of a layer's activations, inside a LoRA branch.

Beside a frozen matrix, delta y = (alpha / R) x A^T B^T with A = V^T fixed and B = U S: V [in, R] are the
principal directions of the layer's inputs, U [out, R] those of its outputs, and only S [R, R] is moved. A
zeroth-order estimate is the noisier the more elements move, and activations live in few directions: the
same forwards teach R x R numbers far better than the (in + out) x R of the factors. Related: LoRA-XS
(arXiv 2405.17604), which takes the directions from the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zoedge.adapters import LoraBranch
from zoedge.errors import InputError
from zoedge.methods import Point, Update

from ..device import Buffer
from ..noise.reference import Float32
from .base import Arrays, Site, Space, lora_of
from .changes import Change, Noise
from .out_of_place import OutOfPlace
from .support import Part


def basis_name(branch: LoraBranch) -> str:
    """Return the name under which a journal assigns U, beside A under its own."""
    return f"{branch.b}:basis"


class ActivationBranch(Space):
    """The factors ``a`` [R, in] and ``b`` [out, R] of branches; until its bases are assigned one does nothing."""

    several = True

    def __init__(self, sites: Sequence[Site]) -> None:
        branches = [lora_of(site) for site in sites]
        first = sites[0]
        device = self._device = first.device
        # by the names that values are assigned under: A and U of all branches
        self._bases: dict[str, Buffer] = {}
        products, inner = [], []
        for branch, site in zip(branches, sites, strict=True):
            a, b = site.buffers
            if device.host(b).any():
                raise InputError(
                    f"{branch.b} is not zero, so its branch can't get new directions: use --lora-space factors"
                )
            u, s = device.zeros(b.shape), device.zeros((branch.rank, branch.rank))
            self._bases |= {branch.a: a, basis_name(branch): u}
            products.append((u, s, b))
            inner.append(replace(site, name=f"{branch.b}:s", buffers=(s,), decays=True))
        super().__init__([branch.b for branch in branches], {n: x.shape for n, x in self._bases.items()})
        self._products = tuple(products)
        self._written = tuple(branch.b for branch in branches)
        noise = Noise.of([branch.b for branch in branches], first.seed, first.directions)
        self._inner = OutOfPlace(inner, noise)
        self._current = True  # each B is U S

    def visit(self, step: int, point: Point, part: Part) -> None:
        """Remember where S is to be."""
        self._inner.visit(step, point, part)

    def apply(self, step: int, update: Update, part: Part) -> list[Change]:
        """Return what moves S."""
        return self._inner.apply(step, update, part)

    def settle(self) -> list[Change]:
        """Return what brings S to where it is to be."""
        changes = self._inner.settle()
        self._current = self._current and not changes
        return changes

    def settled(self) -> None:
        """Write B = U S."""
        if not self._current:
            self._device.products(self._products)
            self._current = True

    def theta(self) -> Float32:
        """Return S."""
        return self._inner.theta()

    def values(self) -> dict[str, Float32]:
        """Return each B where buffers are rounded."""
        device = self._device
        if not device.out_of_place:
            return {}
        exact = {}
        for name, (u, s, _) in zip(self._written, self._products, strict=True):
            b = device.zeros(u.shape)
            device.products([(u, s, b)])
            exact[name] = device.host(b).astype(np.float32, copy=False)
        return exact

    def assign(self, values: Arrays) -> None:
        """Take some of A = V^T and U."""
        for name, buffer in self._bases.items():
            if name in values:
                self._device.write(buffer, values[name])
                self._current = False

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return all bases and S."""
        bases = {name: self._device.host(buffer) for name, buffer in self._bases.items()}
        return {**bases, **self._inner.state()}

    def load(self, state: Arrays) -> None:
        """Continue from a state."""
        self.assign(state)
        self._inner.load(state)
