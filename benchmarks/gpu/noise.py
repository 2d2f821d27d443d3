"""Directions beside a copy of as many bytes within the hardware's memory.

A part is timed by itself: ``gauss2`` adds two Gaussian terms, ``copy`` copies, both over the same elements.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from gpu.variant import Place, Variant
from zoedge.bundle import Bundle
from zoedge.runtime.device import open_device
from zoedge.runtime.noise.reference import tensor_id
from zoedge.runtime.noise.sweep import Family, StepMove, Sweep

ELEMENTS = {"cuda": 1 << 28, "cpu": 1 << 20}
SCALES = (1e-9, -2e-9, 7e-10)


class Noise(Variant):
    """Sweeps over one large tensor, and over all tensors of a bundle in one call.

    Args:
        bundle: whose tensors these are.
    """

    passes = "no pass"

    def __init__(self, place: Place, bundle: str) -> None:
        super().__init__(place)
        self._shapes = {
            p.name: p.shape for p in Bundle.open(place.bundles / bundle, verify=False).manifest.trainable
        }

    def build(self) -> None:
        self._device = device = open_device(self.place.provider, 0, "auto")
        count = ELEMENTS[self.place.provider]
        one, other = device.zeros((count,)), device.zeros((count,))
        large = Family((one,), (tensor_id("large.weight"),))
        tensors = tuple(device.zeros(shape) for shape in self._shapes.values())
        model = Family(tensors, tuple(map(tensor_id, self._shapes)))
        sizes = {"": count, " of the model": sum(t.size for t in tensors)}
        copied = (device.zeros((sizes[" of the model"],)), device.zeros((sizes[" of the model"],)))
        self.elements: dict[str, int] = {}
        for where, family, pair in (("", large, (one, other)), (" of the model", model, copied)):
            self._add(f"copy{where}", sizes[where], self._copy(*pair))
            for terms in (1, 2, 3):
                self._add(f"gauss{terms}{where}", sizes[where], self._sweep(family, terms, "gaussian"))
            self._add(f"signs{where}", sizes[where], self._sweep(family, 1, "rademacher"))
            self._add(f"signs2{where}", sizes[where], self._sweep(family, 2, "rademacher"))
        for part in self.parts.values():
            part()
        self.notes.append(f"{len(tensors)} tensors of the model, {sizes[' of the model']:,} elements")

    def loss(self) -> float:
        """Return a number: there is no loss."""
        return 0.0

    def _add(self, name: str, elements: int, part: Any) -> None:
        self.parts[name], self.elements[name] = part, elements

    def _copy(self, target: Any, source: Any) -> Any:
        if self.place.provider == "cpu":
            return partial(self._device.write, target, source)
        import cupy

        return partial(cupy.copyto, target.array, source.array)

    def _sweep(self, family: Family[Any], terms: int, distribution: str) -> Any:
        moves = tuple(StepMove(3, probe, scale) for probe, scale in enumerate(SCALES[:terms]))
        return partial(self._device.sweep, [Sweep(family, 0, moves, distribution)])
