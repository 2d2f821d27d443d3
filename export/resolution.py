"""How finely the loss of a quantised bundle answers a perturbation.

Activations rounded to 8 bits make the loss a staircase over a smooth function, and a difference of two losses
means something only where it exceeds the steps. Along a line of parameters the smooth part is fitted by a
polynomial; what is left over is the rounding.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoedge.manifest import LOSS_FILE, Manifest

from .exported import Exported
from .liveness import draw_inputs, map_trainable
from .session import Session

Array = np.ndarray[Any, Any]

EPS = 1e-2  # what adapters are perturbed by: the loss's own change is seen at +EPS and -EPS
_SHORT = 1e-3  # half the length of the line on which the loss, but for its rounding, is a polynomial
_SHAPE = (4, 16)  # (batch, length)
_LINES = 6
_POINTS = 12
_DEGREE = 3
_CLEAR = 3.0  # a difference is taken as clear at this multiple of its own deviation


class Resolution(NamedTuple):
    """``noise``: standard deviation of one loss; ``least_eps``: see ``measure_resolution``."""

    noise: float
    least_eps: float


def measure_resolution(folder: Path, exported: Exported, manifest: Manifest) -> Resolution:
    """Measure on random inputs, along random signs of all trainable tensors (LoRA's factors themselves).

    ``least_eps`` is where |L(+eps z) - L(-eps z)|, 2 eps |g| in root mean square over lines, is three times the
    deviation of that difference, sqrt(2) noise. It is an order of magnitude: rows of real data have other slopes.

    Args:
        folder: holds the graphs and tensors of a bundle; they are mapped copy-on-write, so files stay.
        exported: the source, for inputs.
        manifest: of the bundle.
    """
    buffers = map_trainable(folder, manifest)
    session = Session(folder / LOSS_FILE, LOSS_FILE, buffers=buffers)
    inputs = draw_inputs(exported, manifest, *_SHAPE)
    rng = np.random.default_rng(6)
    if exported.fresh_head is not None:  # zeros, as exported, would pass no change on
        head = buffers[exported.fresh_head[0]]
        head[...] = rng.standard_normal(head.shape) / np.sqrt(head.shape[-1])
    start = {name: buffer.copy() for name, buffer in buffers.items()}
    places = np.linspace(-1.0, 1.0, _POINTS)
    variances, squares = [], []  # of one loss; of half of L(+EPS z) - L(-EPS z)
    for _ in range(_LINES):
        signs = {name: _signs(rng, buffer.shape) for name, buffer in buffers.items()}
        losses = []
        for shift in (EPS, -EPS, *(_SHORT * places)):
            for name, buffer in buffers.items():
                np.add(start[name], np.float32(shift) * signs[name], out=buffer)
            losses.append(_mean_loss(session, inputs))
        squares.append((losses[0] - losses[1]) ** 2 / 4.0)
        fitted = np.polynomial.Polynomial.fit(places, losses[2:], _DEGREE)
        variances.append(np.square(losses[2:] - fitted(places)).sum() / (_POINTS - _DEGREE - 1))
    variance = float(np.mean(variances))
    own = variance / 2.0  # what noise adds to a square, and the least that can be told
    change = math.sqrt(max(float(np.mean(squares)) - own, own))
    noise = math.sqrt(variance)
    return Resolution(noise, EPS * _CLEAR * math.sqrt(2.0) * noise / (2.0 * change) if change else 0.0)


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.where(rng.random(shape, np.float32) < 0.5, np.float32(-1), np.float32(1))


def _mean_loss(session: Session, inputs: dict[str, Array]) -> float:
    got = session.run(inputs, ("loss", "weight"))
    weight = got["weight"].astype(np.float64)
    return float((got["loss"].astype(np.float64) * weight).sum() / weight.sum())
