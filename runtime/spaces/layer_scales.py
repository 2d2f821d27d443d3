"""Layers with scales of their own, by the size of their weights or gradients (MeZO, arXiv 2305.17333, appendix B)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from zoedge.errors import InputError
from zoedge.methods import support as declared

from ..noise.reference import Float32
from .parts import Moved, Narrowing, Part, Parts, Remembering, Theta, layer_of

_PIECE = 1 << 16  # elements that are squared at a time


def layer_scales(declaration: declared.LayerScales, moved: Moved, seed: int) -> Narrowing:
    """Return the narrowing that gives each layer its scales, and each tensor outside any."""
    return (GradientScales if declaration.gradients else WeightScales)(declaration, moved)


class _Scales:
    """Sizes by layer, and what parts get by them; a layer without one is as without scaling."""

    reads_theta = masks = False

    def __init__(self, declaration: declared.LayerScales, moved: Moved) -> None:
        self._unbiased = declaration.unbiased
        self._layer = {name: layer_of(name) or name for name in sorted(moved.names)}
        self._layers = sorted(set(self._layer.values()))
        self._sizes: dict[str, float] = {}  # over that of all

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return the parts with their scales."""
        return {
            name: self._scaled(part, self._sizes.get(self._layer[name], 1.0)) for name, part in parts.items()
        }

    def _scaled(self, part: Part, size: float) -> Part:
        return part._replace(reach=1.0 / size, stride=size if self._unbiased else 1.0)


class WeightScales(_Scales):
    """Sizes are root mean squares of exported weights.

    Raises:
        InputError: all are zeros.
    """

    def __init__(self, declaration: declared.LayerScales, moved: Moved) -> None:
        super().__init__(declaration, moved)
        squares = {layer: [0.0, 0.0] for layer in self._layers}
        for name, layer in self._layer.items():
            theta = moved.theta(name)
            squares[layer][0] += sum_of_squares(theta)
            squares[layer][1] += theta.size
        total, count = (sum(s[i] for s in squares.values()) for i in (0, 1))
        if total == 0.0:
            raise InputError(
                "--layer-scaling goes by the size of weights, and all that moves begins as zeros: "
                "use --layer-norms gradients, or leave it out"
            )
        self._sizes = {
            layer: math.sqrt(s / n * count / total) for layer, (s, n) in squares.items() if s > 0.0
        }


class GradientScales(_Scales, Remembering):
    """Sizes are derivatives along a direction of one layer; the first steps of a cycle look at a layer each."""

    def __init__(self, declaration: declared.LayerScales, moved: Moved) -> None:
        super().__init__(declaration, moved)
        self._cycle = None if declaration.every is None else len(self._layers) + declaration.every
        self._seen = np.zeros(len(self._layers))

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return the parts of the layer that is looked at, or all with their scales."""
        turn = self._turn(step)
        if turn >= len(self._layers):
            return super().narrow(step, parts, theta)
        layer = self._layers[turn]
        return {n: p._replace(stride=0.0) for n, p in parts.items() if self._layer[n] == layer}

    def told(self, step: int, g: Sequence[float]) -> None:
        """Keep what was seen of a layer."""
        turn = self._turn(step)
        if turn < len(self._layers):
            self._seen[turn] = math.sqrt(math.fsum(c * c for c in g) / len(g))
            self._know()

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Return what was seen, by layer in order of their names."""
        return {"zoedge.layer_norms": self._seen.copy()}

    def load(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Continue from what was seen."""
        self._seen = np.array(state["zoedge.layer_norms"], np.float64)
        self._know()

    def _turn(self, step: int) -> int:
        return step if self._cycle is None else step % self._cycle

    def _know(self) -> None:
        known = [float(x) for x in self._seen if x > 0.0]
        if known:
            mean = math.sqrt(math.fsum(x * x for x in known) / len(known))
            pairs = zip(self._layers, self._seen.tolist(), strict=True)
            self._sizes = {layer: x / mean for layer, x in pairs if x > 0.0}


def sum_of_squares(values: Float32) -> float:
    """Return the sum in float64, one after the other: the same bits on every processor."""
    flat, total = values.reshape(-1), 0.0
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE].astype(np.float64)
        total += float(np.cumsum(piece * piece)[-1])
    return total
