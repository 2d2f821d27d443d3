"""In which precision a run's passes compute: the fastest that measures what float32 does, on rows of the run.

A zeroth-order step lives on differences of losses, which coarse products may drown. So what is compared are those:
slopes along random directions over all trainable tensors, at the run's own step size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from zoedge.bundle import Bundle
from zoedge.errors import InputError, ZoedgeError
from zoedge.manifest import LOSS_FILE

from ..data.batches import MicroBatch
from ..device import Device
from ..losses.objectives import Objective
from ..noise.reference import tensor_id
from ..noise.sweep import Family, StepMove, Sweep
from ..passes.engine import Engine
from ..passes.frozen import frozen_where
from ..spaces.parameters import load_buffers

DIRECTIONS = 8
AGREES = 0.02  # of the slopes' size: what eight directions differ by at most where coarser passes are taken
_SEED = 0x7A6F  # of directions that no step takes

Batches = Callable[[Device], Sequence[MicroBatch]]


def settled_precision(
    bundle: Bundle,
    device: Device,
    batches: Batches,
    goal: Objective,
    eps: float,
    other: Callable[[str], Device],
) -> tuple[Device, str]:
    """Return the device in the fastest precision that agrees with float32, and a sentence that says how well.

    Args:
        bundle: what is tuned.
        device: one that computes in float32.
        batches: returns the passes of a step, as a device pads them.
        goal: what a step minimises.
        eps: size of its probes.
        other: opens the device with another precision.
    """
    exact = slopes(bundle, device, batches(device), goal, eps)
    said = []
    for precision in device.precisions:
        if precision == device.precision:
            break
        try:
            coarse = other(precision)
            found = slopes(bundle, coarse, batches(coarse), goal, eps)
        except (InputError, ZoedgeError) as error:
            said.append(f"{precision} is not possible ({error})")
            continue
        off = difference(found, exact)
        if off <= AGREES:
            return coarse, (
                f"passes compute in {precision}: along {DIRECTIONS} directions the loss falls as in float32, "
                f"within {off:.1%}"
            )
        said.append(f"{precision} is off by {off:.1%}")
    return device, "; ".join([f"passes compute in {device.precision}", *said])


def slopes(
    bundle: Bundle, device: Device, batch: Sequence[MicroBatch], goal: Objective, eps: float
) -> NDArray[np.float64]:
    """Return (L(theta + eps z) - L(theta - eps z)) / 2 eps along some directions z, float64 [DIRECTIONS]."""
    buffers = load_buffers(bundle, device)
    masters = tuple(device.master(buffer) for buffer in buffers.values())
    family = Family(tuple(buffers.values()), tuple(map(tensor_id, buffers)), masters)
    engine = Engine(
        bundle.path(LOSS_FILE), buffers, device=device, frozen=frozen_where(bundle, device, "auto")
    )

    def loss(direction: int, scale: float) -> float:
        device.sweep([Sweep(family, _SEED, (StepMove(direction, 0, scale),), "gaussian")])
        return goal([(b, engine.run(b.given, goal.outputs)) for b in batch])

    ends = [(loss(k, eps), loss(k, -eps)) for k in range(DIRECTIONS)]
    return np.array([(high - low) / (2.0 * eps) for high, low in ends])


def difference(found: NDArray[np.float64], exact: NDArray[np.float64]) -> float:
    """Return how far slopes are from exact ones, relative to those; infinity where nothing can be said."""
    size = float(np.linalg.norm(exact))
    if not (np.isfinite(found).all() and np.isfinite(size) and size > 0.0):
        return float("inf")
    return float(np.linalg.norm(found - exact)) / size
