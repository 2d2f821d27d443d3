"""Layers with scales of their own, by the size of their weights (MeZO, arXiv 2305.17333, appendix B)."""

from __future__ import annotations

import math

import numpy as np

from zoedge.errors import InputError
from zoedge.methods import support as declared

from ..noise.reference import Float32
from .parts import Moved, Parts, Theta, layer_of

_PIECE = 1 << 16  # elements that are squared at a time


class LayerScalesNarrowing:
    """Each layer has scales of its own, and so has each tensor outside any.

    Layers of zeros alone have those of no scaling.

    Raises:
        InputError: all of it is zeros.
    """

    reads_theta = masks = False

    def __init__(self, declaration: declared.LayerScales, moved: Moved, seed: int) -> None:
        layers = {name: layer_of(name) or name for name in sorted(moved.names)}
        squares: dict[str, list[float]] = {layer: [0.0, 0.0] for layer in layers.values()}
        for name, layer in layers.items():
            theta = moved.theta(name)
            squares[layer][0] += sum_of_squares(theta)
            squares[layer][1] += theta.size
        total, count = (sum(s[i] for s in squares.values()) for i in (0, 1))
        if total == 0.0:
            raise InputError(
                "--layer-scaling goes by the size of weights, and all that moves begins as zeros: "
                "use --lora-space factors, or leave it out"
            )
        sizes = {layer: math.sqrt(s / n * count / total) for layer, (s, n) in squares.items()}
        self._scales = {
            name: (1.0 / d, d if declaration.unbiased else 1.0)
            for name, layer in layers.items()
            if (d := sizes[layer]) > 0.0
        }

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return the parts with their scales."""
        return {
            name: part._replace(reach=self._scales[name][0], stride=self._scales[name][1])
            if name in self._scales
            else part
            for name, part in parts.items()
        }


def sum_of_squares(values: Float32) -> float:
    """Return the sum in float64, one after the other: the same bits on every processor."""
    flat, total = values.reshape(-1), 0.0
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE].astype(np.float64)
        total += float(np.cumsum(piece * piece)[-1])
    return total
